"""The values that `--db` accepts, and the errors for all others."""

import os
from pathlib import Path

import pytest
from efficientquant.installation import install_command
from efficientquant_controller import database_location as module
from efficientquant_controller.database_location import Location, check_location, locate
from efficientquant_controller.errors import StoreError
from efficientquant_controller.store.sql import open_store


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("results.db", "results.db"),
        ("sqlite:///results.db", "results.db"),
        ("sqlite:////var/a.db", "/var/a.db"),
        ("SQLite+pysqlite:///a%20b.db", "a b.db"),
    ],
)
def test_a_file(target: str, path: str) -> None:
    """A path and a SQLite URL both name a file."""
    assert locate(target) == Location(Path(path))


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "PostgreSQL"])
def test_a_server(scheme: str) -> None:
    """Every usual spelling of PostgreSQL means psycopg, which messages do not show."""
    location = locate(f"{scheme}://me:secret@host:5432/name")
    assert location.url == "postgresql+psycopg://me:secret@host:5432/name"
    assert str(location) == "postgresql://me:***@host:5432/name"


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("mysql://me@host/x", "mysql databases are not supported; pass a path, sqlite:///PATH or postgresql://"),
        ("mariadb+pymysql://me@host/x", "mariadb databases are not supported; pass a path"),
        ("http://host/x", "http databases are not supported; pass a path"),
        ("postgresql+asyncpg://me@host/x", "the driver asyncpg is not supported; pass a path"),
        ("postgresql+psycopg2://me@host/x", "the driver psycopg2 is not supported; pass a path"),
        ("sqlite+aiosqlite:///x.db", "the driver aiosqlite is not supported; pass a path"),
        ("sqlite://", "needs a file; pass a path"),
        ("sqlite:///", "needs a file; pass a path"),
        ("sqlite:///:memory:", "needs a file; pass a path"),
        (":memory:", "needs a file; pass a path"),
        ("", "needs a file; pass a path"),
        ("sqlite://results.db", "a path follows three slashes; pass sqlite:///results.db"),
        ("sqlite:///x.db?mode=ro", r"options after \? are not supported; pass sqlite:///x.db"),
        ("file:x.db?mode=ro", "neither a path nor a supported URL; pass a path"),
        ("file:///x.db", "neither a path nor a supported URL; pass a path"),
        ("postgresql:name", "neither a path nor a supported URL; pass a path"),
        ("postgresql://me:se@cret@host/x", "more than one @; write an @ in a user name or password as %40"),
    ],
)
def test_what_is_not_supported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, sentence: str) -> None:
    """The error says what is wrong and what is accepted, shows no password, and nothing is created."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=sentence) as refused:
        open_store(target)
    assert "cret" not in str(refused.value)
    assert os.listdir(tmp_path) == []


def test_a_port_that_is_no_number() -> None:
    """The error shows what a URL looks like and no password."""
    with pytest.raises(StoreError, match=r"postgresql://me:\*\*\*@host:port/x: .*with a number as PORT") as refused:
        open_store("postgresql://me:secret@host:port/x")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("password", ["me:secret@", "me:se/cret@", "%3A:secret@"])
def test_a_server_that_does_not_answer(tmp_path: Path, password: str) -> None:
    """The error says what to check in the URL and shows no password, wherever the URL has it."""
    for url in (f"{password}/x?host={tmp_path}", f"me@/x?host={tmp_path}&password=secret"):
        with pytest.raises(StoreError, match="check the host, port, user, password and name") as refused:
            open_store(f"postgresql://{url}")
        assert "cret" not in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1


def test_a_wrong_name_on_a_server(postgres_socket: str) -> None:
    """A database that the server does not have is named."""
    with pytest.raises(StoreError, match=r'database "nosuch" does not exist; check the host, port'):
        open_store(f"postgresql://postgres@/nosuch?host={postgres_socket}", read_only=True)


@pytest.mark.parametrize("writing", [False, True])
def test_a_server_without_the_driver(monkeypatch: pytest.MonkeyPatch, writing: bool) -> None:
    """Without the driver the error gives the install command before anything else is done."""
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    with pytest.raises(StoreError, match="psycopg, which PostgreSQL takes, is not installed; install it: ") as refused:
        check_location("postgresql://me:secret@host/x", writing=writing)
    assert str(refused.value).endswith(install_command("postgresql"))
    assert "secret" not in str(refused.value)
