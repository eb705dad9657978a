"""Checks of a user's paths, and atomic writing of files."""
