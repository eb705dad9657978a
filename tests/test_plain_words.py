"""The mechanical part of plain words: short summaries, no semicolons, variables named after what they hold."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("controller", "agent", "protos", "deploy", "docs")
MOST_WORDS = 12
# A test's docstring is its rule, in one sentence.
MOST_WORDS_OF_A_RULE = 20
UNCLEAR = ("anew", "dear", "told", "beside", "one that", "has not", "what is not there")
SAYS_NOTHING = {"one", "found", "told", "chosen"}
# How a summary begins that says what a function is like, where it should say what to do.
NOT_IMPERATIVE = {
    "a",
    "all",
    "an",
    "each",
    "every",
    "how",
    "it",
    "the",
    "what",
    "where",
    "whether",
    "which",
    "who",
    "why",
}
PROPERTIES = {"property", "cached_property", "functools.cached_property", "abc.abstractproperty"}


def files_of(*folders: str) -> list[Path]:
    """Return the Python files of folders, and what is generated with docstrings from fleet.proto."""
    paths = [path for folder in folders for kind in ("*.py", "*.pyi") for path in sorted((ROOT / folder).rglob(kind))]
    return [path for path in paths if "build" not in path.parts[len(ROOT.parts) :]]


def documented(path: Path) -> Iterator[tuple[ast.AST, str, str]]:
    """Give each documented node of a file, its docstring and where it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node, text, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def without_code(text: str) -> str:
    """Return a text without what stands between backticks or quotes, or in an indented block."""
    text = re.sub(r"`+[^`]*`+|\"[^\"\n]*\"|'[^'\n]*; [^'\n]*'", "CODE", text)
    return re.sub(r"^ {4,}.*$", "", text, flags=re.MULTILINE)


def problems_of(text: str, most_words: int) -> list[str]:
    """Return what a docstring has against plain words."""
    summary = " ".join(text.split("\n\n")[0].split())
    words = summary.split()
    problems = []
    if len(words) > most_words:
        problems.append(f"{len(words)} words: {summary}")
    if ";" in without_code(text):
        problems.append(f"a semicolon: {summary}")
    problems += [f"{word!r}: {summary}" for word in UNCLEAR if re.search(rf"\b{word}\b", without_code(text))]
    return problems


def is_a_rule(node: ast.AST) -> bool:
    return getattr(node, "name", "").startswith("test_") and not isinstance(node, ast.ClassDef)


def is_imperative(node: ast.AST, text: str) -> bool:
    """Tell whether a function's summary begins with a verb.

    Properties are named like what they hold.
    """
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return True
    if {ast.unparse(decorator) for decorator in node.decorator_list} & PROPERTIES:
        return True
    return re.split(r"\W", text.lower(), maxsplit=1)[0] not in NOT_IMPERATIVE


@pytest.mark.parametrize("folder", [*SOURCES, "tests"])
def test_docstrings_are_short_and_plain(folder: str) -> None:
    """Summaries have at most 12 words, and no docstring has a semicolon or an unclear word."""
    problems = []
    for path in files_of(folder):
        for node, text, where in documented(path):
            most_words = MOST_WORDS_OF_A_RULE if is_a_rule(node) or path.name.startswith("test_") else MOST_WORDS
            problems += [f"{where}: {problem}" for problem in problems_of(text, most_words)]
            if not path.name.startswith("test_") and not is_a_rule(node) and not is_imperative(node, text):
                problems.append(f"{where}: not imperative: {text.splitlines()[0]}")
    assert not problems, f"{len(problems)} problems:\n" + "\n".join(problems)


@pytest.mark.parametrize("folder", [*SOURCES, "tests"])
def test_variables_are_named_after_what_they_hold(folder: str) -> None:
    """No variable or argument is called `one`, `found`, `told` or `chosen`."""
    problems = []
    for path in files_of(folder):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in SAYS_NOTHING:
                problems.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.id}")
            if isinstance(node, ast.arg) and node.arg in SAYS_NOTHING:
                problems.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.arg}")
    assert not problems, f"{len(problems)} problems:\n" + "\n".join(problems)


def test_a_summary_in_the_old_dialect_is_found() -> None:
    """Each rule finds what it is about."""
    function = ast.parse("def read(): ...").body[0]
    text = "A dear sampler; told beside what is not there, and so on, until everyone has lost count of the words."
    assert len(problems_of(text, MOST_WORDS)) == 2 + 4
    assert not is_imperative(function, text)
    assert problems_of("Read `a; b` once.", MOST_WORDS) == []
    assert is_imperative(function, "Read once.")
