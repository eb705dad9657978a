"""Artifact builds, run scheduling and device liveness."""
