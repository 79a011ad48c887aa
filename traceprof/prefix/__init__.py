"""The shared-prefix questions: radix tree and miss-ratio curve."""
