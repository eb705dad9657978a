"""Long output and the pager."""

import sys

import pytest
from efficientquant_controller.cli import output
from efficientquant_controller.cli.paging import paged, pager


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that makes stdin and stdout a terminal of 10 lines and returns its console."""

    def make():
        for stream in (sys.stdin, sys.stdout):
            monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
        for name, value in {"COLUMNS": "80", "LINES": "10", "TERM": "xterm-256color"}.items():
            monkeypatch.setenv(name, value)
        return output.stdout_console()

    return make


def page(terminal, lines, **options):
    console = terminal()
    with paged(console, **options):
        for number in range(lines):
            console.print(f"line {number}")


@pytest.mark.parametrize(("lines", "allowed", "is_paged"), [(9, True, False), (30, True, True), (30, False, False)])
def test_only_long_output_is_paged(terminal, monkeypatch, tmp_path, capfd, lines, allowed, is_paged):
    """What is longer than the terminal goes to $PAGER, unless --no-pager was given."""
    file = tmp_path / "paged"
    monkeypatch.setenv("PAGER", f"tee {file}")
    page(terminal, lines, allowed=allowed)
    assert file.exists() == is_paged
    assert "line 0" in (file.read_text() if is_paged else capfd.readouterr().out)


def test_a_pipe_is_not_paged(monkeypatch, tmp_path, capsys):
    """Without a terminal $PAGER is not started."""
    monkeypatch.setenv("PAGER", f"tee {tmp_path / 'paged'}")
    page(output.stdout_console, 300)
    assert not (tmp_path / "paged").exists()
    assert "line 299" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "words"), [("", []), ("cat", []), ("less -S", ["less", "-S"]), ("no-such-pager-here -x", [])]
)
def test_the_pager_is_the_users(monkeypatch, capsys, asked, words):
    """An empty $PAGER or cat means none, and a missing one is named."""
    monkeypatch.setenv("PAGER", asked)
    monkeypatch.setattr("shutil.which", lambda name: None if name.startswith("no-such") else name)
    assert pager() == words
    assert ("the pager 'no-such-pager-here' of $PAGER is not installed" in capsys.readouterr().err) == ("no" in asked)


def test_a_pager_that_is_no_command_is_named(monkeypatch, capsys):
    """An open quote in $PAGER is said, and nothing is paged."""
    monkeypatch.setenv("PAGER", "less '")
    assert pager() == []
    assert '$PAGER is "less \'", which is no command (no closing quotation)' in capsys.readouterr().err


def test_no_color_is_plain_text(terminal, monkeypatch, capfd):
    """With NO_COLOR nothing but the text is printed, also on a terminal."""
    monkeypatch.setenv("NO_COLOR", "1")
    terminal().print("text", style="bold #009e73")
    assert capfd.readouterr().out == "text\n"
    monkeypatch.delenv("NO_COLOR")
    terminal().print("text", style="bold #009e73")
    assert "\x1b[" in capfd.readouterr().out
