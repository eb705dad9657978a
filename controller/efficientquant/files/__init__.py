"""Paths that a user gives, and files written whole."""
