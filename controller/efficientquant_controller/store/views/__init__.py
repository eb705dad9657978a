"""The views of each schema: v1 to v3 as they were released, and the current ones, made from the registry.

From schema 4 on a migration creates no views. When migrations have brought the tables to the newest schema, the store
replaces all views by those that the registry describes (`recreate_views`), in the same transaction; between two
migrations nobody reads them. So a metric takes one entry and one migration that adds its column, and the text of a
released migration never depends on entries that came later.

A migration that changes what the views are names them by `VIEWS_SHA256`, and a test compares the newest one with the
registry: an entry without a migration fails there, or readers would meet one schema with two kinds of views.
"""

import hashlib

from sqlalchemy import Connection, inspect, text

from efficientquant_controller.store.views.current import current_views


def recreate_views(connection: Connection) -> None:
    """Replace every view of the database by those of the registry."""
    views = current_views()
    existing = inspect(connection).get_view_names()
    for name in reversed(views):  # `comparisons` reads `results`
        if name in existing:
            connection.execute(text(f"DROP VIEW {name}"))
    for statement in views.values():
        connection.exec_driver_sql(statement)


def views_sha256() -> str:
    """Name the current views by the SHA-256 of their texts."""
    return hashlib.sha256("\n".join(current_views().values()).encode()).hexdigest()
