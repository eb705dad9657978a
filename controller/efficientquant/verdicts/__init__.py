"""Verdicts on what a target makes of an artifact.

They are predicted from rules, or come from building or loading it.
"""
