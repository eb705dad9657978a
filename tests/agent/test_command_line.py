"""The tests of mistakes on the command line."""

import pytest
from efficientquant_agent.command_line import seconds_of, size_of, suggestion
from efficientquant_agent.config import build_parser
from efficientquant_agent.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("2147483648", 2 * 1024**3),
        ("2GiB", 2 * 1024**3),
        ("2gib", 2 * 1024**3),
        ("1.5GiB", 3 * 1024**3 // 2),
        (".5MiB", 512 * 1024),
        ("500MB", 500 * 1000**2),
        ("500 MB", 500 * 1000**2),
        ("4G", 4 * 1024**3),
        ("64k", 64 * 1024),
        ("64kB", 64000),
        ("+1B", 1),
        ("1T", 1024**4),
        ("1PiB", 1024**5),
        ("0.3KiB", 307),
    ],
)
def test_sizes(text, size_bytes):
    """A size with an i or one letter has a binary unit, and one with a B a decimal unit."""
    assert build_parser().parse(["--cache-bytes", text]).cache_bytes == size_bytes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-1", "is negative"),
        ("-1GiB", "is negative"),
        ("1.5", "is a unit missing"),
        ("1025TiB", "is more than 1 PiB"),
        ("9" * 21, "is not a size"),
        ("9" * 5000, "5000 characters"),
        ("nan", "is not a size"),
        ("inf", "is not a size"),
        ("1e9", "is not a size"),
        ("2 G i B", "is not a size"),
        ("1,5GiB", "is not a size"),
        ("2Gb/s", "is not a size"),
        ("٣GiB", "is not a size"),
        ("GiB", "is not a size"),
        ("", "is not a size"),
    ],
)
def test_sizes_that_are_none(text, words):
    """An invalid size is refused in a sentence that names the option."""
    with pytest.raises(UsageError, match="^--plan-cache-bytes .*" + words):
        size_of("--plan-cache-bytes")(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e400", "3601", "soon", ""])
def test_seconds_have_bounds(text):
    """A number of seconds outside its bounds is refused, with the bounds."""
    with pytest.raises(UsageError, match=r"is not a number of seconds from 0\.01 to 3600"):
        seconds_of("--backoff-max-s", 0.01, 3600.0)(text)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--contoller", "a:1"], "there is no option '--contoller'; did you mean --controller?"),
        (["--contoller=a:1"], "there is no option '--contoller'; did you mean --controller?"),
        (["--contr", "a:1"], "there is no option '--contr'; did you mean --controller?"),
        (["--cache_bytes", "1"], "there is no option '--cache_bytes'; did you mean --cache-bytes?"),
        (["-n", "a"], "there is no option '-n'; did you mean --name?"),
        (["help"], "there is no command 'help'; did you mean --help?"),
        (["--b", "1"], "there is no option '--b'; did you mean --backoff-max-s or --board-root?"),
        (["serve"], "there is no command 'serve'; there is doctor, and without a command the agent runs"),
        (["--name"], "--name needs a value"),
        (["--name", "--jtop"], "--name needs a value"),
        (["--jtop=yes"], "--jtop takes no value; pass --jtop alone"),
    ],
)
def test_what_was_meant(arguments, sentence):
    """A mistyped, abbreviated or misplaced word is refused with a suggestion of what exists."""
    with pytest.raises(UsageError) as refusal:
        build_parser().parse(arguments)

    assert str(refusal.value).startswith(sentence)
    assert "\n" not in str(refusal.value)


def test_no_suggestion():
    """A word that is close to no option gets no suggestion."""
    assert suggestion("--qqq", ["--name", "--json"]) == ""
