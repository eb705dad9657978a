"""Verbs that show, compare and keep what was measured."""
