"""The views of each schema.

v1 to v3 are as they were released. From schema 4 on the views are made from the registry of columns (`current`), and a
migration creates none. When migrations have brought the tables to the newest schema, the store replaces all views in
the same transaction (`recreate_views`), and nobody reads the views between two migrations. So a new metric needs one
entry and one migration that adds its column, and a released migration never depends on entries that came later.

Each of these migrations names the views of its schema by `VIEWS_SHA256`. A test compares the newest hash with the
registry. It fails for an entry without a migration, since one schema would then have two kinds of views.
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
