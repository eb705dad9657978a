"""The views of each schema."""

import hashlib
import shutil
import sqlite3
from contextlib import closing
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from efficientquant_controller.columns import OF_JOBS, OF_PAIRS, OF_RUNS
from efficientquant_controller.store.migrations import versions
from efficientquant_controller.store.migrations.versions import (
    v0004_readings,
    v0005_leases,
    v0006_clock_offset,
    v0007_contention,
)
from efficientquant_controller.store.sql import open_store
from efficientquant_controller.store.views import v1, v2, v3, views_sha256
from efficientquant_controller.store.views.current import current_views

DATABASES = Path(__file__).parents[2] / "fixtures" / "databases"
RELEASED = [
    (v1.RESULTS, "a3c5de6c0a2dfc89a1adbad535efe999cae58bc754a00a1af663011b859c5cb6"),
    (v1.RUN_RESULTS, "5023bd625930d0efe8d2b83bd4e52f26c7b3bff40f8f7595440121e312783ed7"),
    (v2.COMPARISONS, "e8ea365c05deaf5df4ff5dbcf0daf4dae23968adf667a3799fc561e8ae8a30d2"),
    (v3.RESULTS, "81b5586cfa3ac858a6acc35c8451cd989cd5e9706f2adc24ce56b63e562c3c4c"),
    (v3.RUN_RESULTS, "060431a7727d9a4aa0e42a53de72aaee3f8f19cbbfd17547ed4c1bc9ee547880"),
    (v3.COMPARISONS, "e8ea365c05deaf5df4ff5dbcf0daf4dae23968adf667a3799fc561e8ae8a30d2"),
]
IN_DATABASES = [
    ("0.1.0.db", {"results": v1.RESULTS, "run_results": v1.RUN_RESULTS}),
    ("0.1.0-schema-2.db", {"results": v1.RESULTS, "run_results": v1.RUN_RESULTS, "comparisons": v2.COMPARISONS}),
    ("0.1.0-schema-3.db", {"results": v3.RESULTS, "run_results": v3.RUN_RESULTS, "comparisons": v3.COMPARISONS}),
]
# Whose views were made from the registry.
LATER = [f"0.1.0-schema-{schema}.db" for schema in (4, 5, 6, 7)]


def views_of(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view'"))


@pytest.mark.parametrize(("text", "sha256"), RELEASED)
def test_a_released_view_never_changes(text: str, sha256: str) -> None:
    """The text of a released view never changes."""
    assert hashlib.sha256(text.encode()).hexdigest() == sha256


@pytest.mark.parametrize(("name", "views"), IN_DATABASES)
def test_a_released_database_holds_its_schemas_views(name: str, views: dict[str, str]) -> None:
    """The texts in `store/views` are those that each release wrote."""
    assert views_of(DATABASES / name) == views


@pytest.mark.parametrize(
    ("schema", "migration"),
    [(4, v0004_readings), (5, v0005_leases), (6, v0006_clock_offset), (7, v0007_contention)],
)
def test_a_migration_names_the_views_of_its_schema(schema: int, migration: ModuleType) -> None:
    """The database of a schema has the views that its migration names by their SHA-256."""
    views = views_of(DATABASES / f"0.1.0-schema-{schema}.db")
    statements = "\n".join(views[name] for name in current_views())
    assert hashlib.sha256(statements.encode()).hexdigest() == migration.VIEWS_SHA256


def test_the_newest_migration_names_the_current_views() -> None:
    """A registry entry that changes a view needs a migration."""
    newest = max(path.stem for path in Path(versions.__file__).parent.glob("v*.py"))
    migration = import_module(f"{versions.__name__}.{newest}")
    assert views_sha256() == getattr(migration, "VIEWS_SHA256", "missing"), (
        f"set VIEWS_SHA256 in a new migration, or in {newest} before release"
    )


@pytest.mark.parametrize("name", ["", *(name for name, _ in IN_DATABASES), *LATER])
def test_views_have_the_columns_of_the_registry(tmp_path: Path, name: str) -> None:
    """New and migrated databases have the registry's columns."""
    path = tmp_path / "results.db"
    if name:
        shutil.copy(DATABASES / name, path)
    open_store(path).close()
    columns = {}
    with closing(sqlite3.connect(path)) as connection:
        for view in ("results", "run_results", "comparisons"):
            columns[view] = [column[0] for column in connection.execute(f"SELECT * FROM {view}").description]
    assert sorted(columns["results"]) == sorted(column.name for column in OF_JOBS)
    assert sorted(columns["run_results"]) == sorted(column.name for column in OF_RUNS)
    assert sorted(columns["comparisons"]) == sorted(column.name for column in OF_PAIRS)


@pytest.mark.parametrize("view", ["results", "run_results", "comparisons"])
def test_views_keep_their_columns_in_their_places(tmp_path: Path, view: str) -> None:
    """The columns of schema 3 keep their positions, because some programs read by position."""
    path = shutil.copy(DATABASES / "0.1.0-schema-3.db", tmp_path / "results.db")

    def columns() -> list[str]:
        with closing(sqlite3.connect(path)) as connection:
            return [column[0] for column in connection.execute(f"SELECT * FROM {view}").description]

    before = columns()
    open_store(path).close()

    assert columns()[: len(before)] == before
