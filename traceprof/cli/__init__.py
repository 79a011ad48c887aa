"""The command line: a thin skin. Only code here parses words, prints, or ends the process."""
