"""Verbs that run a fleet, ask it to measure and watch it."""
