"""The checks of `make gpu-check`, each in its own process.

Each process has a time limit.
"""
