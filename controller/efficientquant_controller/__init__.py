"""The fleet side: server, store, scheduling, analysis and the command line."""
