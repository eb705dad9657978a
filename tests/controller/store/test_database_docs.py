"""The agreement of docs/database.md with the database."""

import json
import re
import shlex
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import documents
import pytest
from efficientquant_controller.analysis.readings import KNOWN_CONDITIONS
from efficientquant_controller.cli.app import run
from efficientquant_controller.columns import OF_COMPARISONS
from efficientquant_controller.columns.document import with_tables
from efficientquant_controller.model import Series, Window
from efficientquant_controller.store.series import RawSamples, pack_series
from efficientquant_controller.store.sql import open_store
from efficientquant_controller.store.tables import metadata

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "database.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def described(title: str) -> list[str]:
    """Return every name in the first column of a section's table."""
    section = next(text for name, text in SECTIONS.items() if name.startswith(title))
    cells = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    shutil.copy(ROOT / "tests" / "fixtures" / "databases" / "0.1.0.db", tmp_path / "results.db")
    open_store(tmp_path / "results.db").close()  # migrates it
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("results.db")) as connection:
        yield connection


@pytest.mark.parametrize("view", ["results", "run_results", "comparisons"])
def test_columns(database: sqlite3.Connection, view: str) -> None:
    """The page describes exactly the columns of each view, each once."""
    columns = [column[0] for column in database.execute(f"select * from {view}").description]
    assert sorted(described(f"View `{view}`")) == sorted(columns)


def test_rows_of_the_commands() -> None:
    """Every column that the commands add to the view `results` is described."""
    assert sorted(described("Rows of")) == sorted(column.name for column in OF_COMPARISONS)


def test_tables_of_columns_are_those_of_the_registry() -> None:
    """The page's tables of columns are up to date with the registry."""
    assert with_tables(PAGE) == PAGE, "run: python -m efficientquant_controller.columns docs/database.md"


def test_tables() -> None:
    """Every table is described."""
    assert sorted(described("Tables")) == sorted(metadata.tables)


@pytest.mark.parametrize("query", [query for block in examples("sql") for query in block.split(";") if query.strip()])
def test_queries(database: sqlite3.Connection, query: str) -> None:
    """Every example query runs."""
    assert database.execute(query).description


@pytest.mark.usefixtures("database")
def test_printed_commands(capsys: pytest.CaptureFixture) -> None:
    """Every command on the page works as printed in a folder with a results.db."""
    for line in documents.command_lines("docs/database.md"):
        with pytest.raises(SystemExit) as left:
            run(shlex.split(line.text)[1:])
        assert not left.value.code, capsys.readouterr().err


def test_format_of_samples() -> None:
    """The page shows the header that blobs have."""
    packed = zlib.decompress(pack_series(RawSamples((), (), (Series("a", (), ()),), (), (Window("b", 0.0, 1.0),))))
    header = json.loads(packed[4 : 4 + int.from_bytes(packed[:4], "little")])
    section = next(text for name, text in SECTIONS.items() if name == "Raw samples")
    assert f'{{"version": {header["version"]}, ' in section
    assert all(f'"{key}"' in section for key in (*header, *header["series"][0]))


def test_conditions() -> None:
    """Every condition that a comparison looks at, and every severity, is described."""
    section = next(text for name, text in SECTIONS.items() if name == "Conditions and findings")
    assert {name for name in KNOWN_CONDITIONS if f"`{name}`" not in section} == set()
    assert all(f"`{severity}`" in section for severity in ("invalid", "soft", "info"))


@pytest.mark.usefixtures("database")
def test_program(capsys: pytest.CaptureFixture) -> None:
    """The example program reads the raw samples."""
    (program,) = examples("python")
    exec(compile(program, "database.md", "exec"), {})
    assert capsys.readouterr().out == "r0 3 ['child_pss_bytes']\nr1 3 ['child_pss_bytes']\n"
