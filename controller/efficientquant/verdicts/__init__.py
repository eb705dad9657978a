"""Build verdicts: whether a target builds an artifact, and how it computes.

They are predicted from rules, or come from building or loading the artifact.
"""
