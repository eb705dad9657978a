"""The one-line errors for wrong command lines."""

import os
import subprocess
import sys

import pytest
import typer
from efficientquant_controller.cli.app import app

VERBS = sorted(typer.main.get_command(app).commands)
COMMAND = [sys.executable, "-m", "efficientquant_controller.cli"]


def refusal(outcome):
    """Return the sentence of a one-line refusal with an empty stdout."""
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    return outcome.err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_option_is_one_line(command, verb):
    """Every verb names the unknown option and its own --help."""
    assert refusal(command(verb, "--surely-not")) == (
        f"'efficientquant {verb}' has no option --surely-not. See 'efficientquant {verb} --help'"
    )


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("bench", "models")])
def test_a_word_too_many_is_one_line(command, verb):
    """Every verb with a fixed number of words names the surplus words or the missing option."""
    sentence = refusal(command(verb, "a", "b", "c", "--for", "x") if verb == "quantize" else command(verb, *"abcd"))

    assert "takes no further argument, and '" in sentence or "needs --" in sentence


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["benhc"], "there is no command 'benhc'; did you mean bench? See 'efficientquant --help'"),
        (["bench", "m", "--repeatz", "3"], "has no option --repeatz; did you mean --repeats? See"),
        (["bench", "m", "--wieght", "x"], "has no option --wieght; did you mean --weights? See"),
        (["compare"], "'efficientquant compare' needs FIRST (What to compare with: a job's id"),
        (["inspect", "m", "--ruel", "x"], "has no option --ruel; did you mean --rule? See"),
        (["bench", "m", "-q"], "'efficientquant bench' has no option -q. See 'efficientquant bench --help'"),
        (["bench", "m", "--tier"], "option '--tier' requires an argument. See 'efficientquant bench --help'"),
        (["bench", "m", "--json=3"], "option '--json' does not take a value. See 'efficientquant bench --help'"),
        (["bench"], "'efficientquant bench' needs MODEL... (timm models, e.g. mobilevit_xxs). See"),
        (["evaluate", "m"], "'efficientquant evaluate' needs --data ("),
        (["compare", "a"], "'efficientquant compare' needs SECOND (What the answer is about, named likewise). See"),
        (["--surely-not"], "'efficientquant' has no option --surely-not. See 'efficientquant --help'"),
    ],
)
def test_the_sentence_says_what_was_meant_or_what_exists(command, words, sentence):
    """The error suggests similar names and names what is missing."""
    assert sentence in refusal(command(*words))


def test_an_unknown_verb_lists_all(command):
    """For an unknown verb without a similar one, the error lists all verbs."""
    assert f"there are {', '.join(typer.main.get_command(app).commands)}. See" in refusal(command("xyzzy"))


def test_no_words_show_the_help(command):
    """The command without arguments prints its help and exits with 0."""
    outcome = command()

    assert (outcome.exit_code, outcome.err) == (0, "")
    assert "Usage: efficientquant" in outcome.out


@pytest.mark.parametrize("words", [["recipes"], ["recipes", "--json"], ["--help"], ["bench", "--help"], ["--version"]])
def test_a_reader_that_leaves_ends_the_command_quietly(words):
    """A closed stdout, as after `| head`, gives exit code 141 without a message."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        ended = subprocess.run([*COMMAND, *words], stdout=closed, stderr=subprocess.PIPE, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (141, "")


def test_a_closed_stderr_ends_the_command_quietly():
    """A closed stderr gives exit code 141 and an empty stdout."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        ended = subprocess.run([*COMMAND, "benhc"], stdout=subprocess.PIPE, stderr=closed, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (141, "")


@pytest.mark.parametrize("words", [["recipes"], ["recipes", "--json"]])
def test_a_full_disk_is_one_line(words):
    """Output that cannot be written is one line and exit code 2."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run([*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert ended.returncode == 2
    assert ended.stderr.startswith("error: the output cannot be written")
    assert ended.stderr.count("\n") == 1


def test_closed_standard_streams_are_no_bug():
    """A caller that has closed stdin and stdout gets the same exit code."""
    ended = subprocess.run(
        ["sh", "-c", '"$@" <&- >&-', "sh", *COMMAND, "recipes"], stderr=subprocess.PIPE, text=True, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    "words", [["watch", "caf\udce9"], ["bench", "caf\udce9"], ["check", "caf\udce9", "--target", "x"]]
)
def test_bytes_that_are_no_text_are_one_line(command, words):
    """An argument that is not UTF-8 is refused first, and shown escaped."""
    assert refusal(command(*words)).startswith(r"the argument 'caf\\udce9' is not UTF-8 text; ")
