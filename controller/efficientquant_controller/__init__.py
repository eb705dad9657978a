"""The fleet side: server, store, scheduling, analysis and the command line."""

__version__ = "0.1.0"
