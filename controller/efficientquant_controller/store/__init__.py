"""The results database: contract, tables, and the SQLAlchemy implementation."""
