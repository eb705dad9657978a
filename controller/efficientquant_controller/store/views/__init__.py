"""The views of each schema.

v1 to v3 keep the views as they were released. From schema 4 on, `current` makes the views from the registry of columns,
and migrations create none. When migrations have brought the tables to the newest schema, the store replaces all views
in the same transaction (`recreate_views`). So a new metric needs one entry and one migration that adds its column, and
a released migration never depends on entries that came later.

Each of these migrations names the views of its schema by `VIEWS_SHA256`. A test compares the newest hash with the
registry. It fails for an entry without a migration, since one schema would then have two sets of views.
"""

import hashlib

from sqlalchemy import Connection, inspect, text

from efficientquant_controller.store.views.current import current_views


def recreate_views(connection: Connection) -> None:
    """Replace every view of the database with those of the registry."""
    views = current_views()
    existing = inspect(connection).get_view_names()
    for name in reversed(views):  # `comparisons` reads `results`
        if name in existing:
            connection.execute(text(f"DROP VIEW {name}"))
    for statement in views.values():
        connection.exec_driver_sql(statement)


def views_sha256() -> str:
    """Return the SHA-256 of the statements that create the current views."""
    return hashlib.sha256("\n".join(current_views().values()).encode()).hexdigest()
