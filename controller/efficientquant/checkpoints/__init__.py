"""Weights: which models have them, and how their files are read and fitted."""
