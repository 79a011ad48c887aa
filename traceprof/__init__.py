"""traceprof: profile your own LLM traffic before you choose, tune or migrate a serving engine."""

__version__ = "0.1.0"
