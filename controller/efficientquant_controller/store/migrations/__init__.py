"""Alembic migrations of the results database, run when it is opened."""
