"""The tests of printing to any terminal."""

import io
import os

import pytest
from efficientquant_agent import streams

ESCAPED = "N\udcc3\udca4"  # what Python makes of the UTF-8 bytes of "Nä" in a C locale


@pytest.mark.parametrize(
    ("encoding", "text", "printed"),
    [
        ("ascii", "4 × core", b"4 x core\n"),
        ("ascii", "Gerät 机", b"Ger\\xe4t \\u673a\n"),
        ("ascii", ESCAPED, b"N\\xe4\n"),
        ("ascii", "half \ud800", b"half \\ud800\n"),
        ("latin-1", "Gerät × 机", b"Ger\xe4t \xd7 \\u673a\n"),
        ("utf-8", "4 × core", b"4 \xc3\x97 core\n"),
        ("utf-8", ESCAPED, b"N\xc3\xa4\n"),
    ],
)
def test_any_character_in_any_encoding(encoding, text, printed, monkeypatch):
    """A character that a stream cannot encode is printed as a plain one or as its escape."""
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr("sys.__stdout__", None)
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    monkeypatch.setattr("sys.__stderr__", None)

    streams.make_robust()
    streams.write_line(streams.sys.stdout, text)

    assert raw.getvalue() == printed


def test_a_reader_that_has_exited():
    """Output to a pipe without a reader is discarded, now and when the buffer is flushed at exit."""
    reader, writer = os.pipe()
    os.close(reader)

    with os.fdopen(writer, "w") as stream:
        streams.write_line(stream, "unheard")
        streams.write_line(stream, "unheard too")


def test_a_full_disk():
    """A line that cannot be written for another reason is an error, and the stream can be closed."""
    with open("/dev/full", "w", encoding="ascii") as stream, pytest.raises(OSError, match="No space left"):
        streams.write_line(stream, "too much")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "'plain'"),
        ("a\nb\x1b", "'a\\nb\\x1b'"),
        (ESCAPED, "'Nä'"),
        ("x" * 61, "'{}…' (61 characters)".format("x" * 59)),
    ],
)
def test_quoted(text, expected):
    """A user's text is quoted on one line, shortened when it is long."""
    assert streams.quoted(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("Nä", "Nä"), (ESCAPED, "Nä"), ("\udcff", "\ufffd"), ("\ud800", "?")])
def test_encodable(text, expected):
    """A text for the wire keeps every character that UTF-8 has."""
    assert streams.encodable(text) == expected
