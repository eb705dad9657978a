"""The output of `efficientquant backup`."""

import os
import sqlite3

import pytest
from efficientquant_controller.store.sql import open_store


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the working directory, with a results.db in use."""
    monkeypatch.chdir(tmp_path)
    store = open_store("results.db")
    yield tmp_path
    store.close()


@pytest.mark.usefixtures("folder")
def test_a_backup_says_what_is_in_it(command):
    """The output names the copy's size and content, and the artifacts that it lacks."""
    outcome = command("backup", "copy.db")

    assert outcome.exit_code == 0
    assert "wrote copy.db: 0.2 MiB, 0 campaigns, 0 runs, schema 0008, checked\n" in outcome.out
    assert "not in it: the artifacts, which stay in results-artifacts/" in outcome.out
    assert command("results", "--db", "copy.db", "--campaign", "all", "--json").out == "[]\n"


@pytest.mark.usefixtures("folder")
def test_a_backup_replaces_nothing_unasked(command):
    """An existing file is refused in one sentence with the option that replaces it."""
    command("backup", "copy.db")
    outcome = command("backup", "copy.db")

    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err.endswith("it exists; name a new file, or replace this one with --overwrite\n")
    assert command("backup", "copy.db", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["results.db"], "it belongs to the database results.db itself"),
        (["copy.db", "--db", "typo.db"], "there is no database typo.db"),
        (["copy.db", "--db", "other.db"], "not a results database of efficientquant"),
        (["copy.db", "--db", "notes.txt"], "it is not a SQLite database"),
        (["sqlite:///copy.db"], "is no file; name the path"),
        (["-"], "is no file; name the path"),
        (["/dev/null", "--overwrite"], "it is not a regular file; name another file"),
        (["copy.db", "--db", "mysql://me@host/x"], "mysql databases are not supported"),
        (["missing/copy.db"], "the directory missing does not exist"),
    ],
)
def test_what_cannot_be_copied(command, folder, arguments, sentence):
    """A copy that is not possible is one sentence, and no file is made."""
    (folder / "notes.txt").write_text("these are my notes, and no database")
    sqlite3.connect("other.db").execute("CREATE TABLE mine (x)").connection.close()
    before = sorted(os.listdir(folder))

    outcome = command("backup", *arguments)

    assert (outcome.exit_code, outcome.out) == (2, "")
    assert sentence in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert sorted(os.listdir(folder)) == before


def test_postgresql_copies_its_own(command):
    """For PostgreSQL the sentence has its own command, without the password."""
    outcome = command("backup", "my copy", "--db", "postgresql+psycopg://me:secret@host/name")

    assert outcome.exit_code == 2
    assert "pg_dump --format=custom '--file=my copy' postgresql://me@host/name\n" in outcome.err
    assert "secret" not in outcome.err
