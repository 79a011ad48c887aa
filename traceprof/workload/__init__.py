"""trace -> workload: which requests are to be sent, when, and with which prompts."""
