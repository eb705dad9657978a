"""Verbs that use the library alone, without a controller."""
