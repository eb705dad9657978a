"""Commands, recipes and targets in the documentation."""

import dataclasses
import re
import shlex
from pathlib import Path

import documents
import pytest
import typer
from efficientquant.recipe import get_recipe, list_recipes
from efficientquant.targets import list_targets
from efficientquant_agent import config
from efficientquant_agent.doctor import command
from efficientquant_controller.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/**/*.md"))
}
QUANTIZATION = PAGES["docs/quantization.md"]


def inline_code(page):
    """Return what stands between backticks in a page, without its blocks."""
    prose = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


@pytest.mark.parametrize("verb", sorted(typer.main.get_command(app).commands))
def test_every_verb_stands_in_the_documentation(verb):
    """README or a page of docs/ names each verb."""
    named = [word for page in PAGES.values() for code in inline_code(page) for word in re.findall(r"[\w-]+", code)]
    assert verb in named or any(f"efficientquant {verb}" in page for page in PAGES.values())


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_and_option_stands_in_the_documentation(name):
    """The page on quantization has each recipe's name and each of its options."""
    options = [field.name for field in dataclasses.fields(get_recipe(name)) if field.name != "name"]
    assert f"`{name}`" in QUANTIZATION
    assert [option for option in options if option not in QUANTIZATION] == []


def test_every_target_stands_in_the_documentation():
    """Each target's name is in the table, the compute capabilities as a range."""
    named = [name for name in list_targets() if not name.startswith("tensorrt-rtx-sm")]
    assert [name for name in named if f"`{name}`" not in QUANTIZATION] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page):
    """A relative link names an existing file."""
    folder = (ROOT / page).parent
    links = re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page])
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_anchors_lead_to_a_heading(page):
    """A link to a part of a page names one of its headings."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", PAGES[page]):
        place = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        headings = re.findall(r"^#+ (.+)$", place.read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_lines_of_prose_are_wrapped(page):
    """Outside tables, code and long links a line has at most 100 characters."""
    prose = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL).splitlines()
    long = [line for line in prose if len(line) > 100 and not line.startswith(("|", "![")) and " " in line.strip()]
    assert long == []


def test_the_readme_is_short():
    """The README has at most 750 words."""
    assert len(PAGES["README.md"].split()) <= 750


ALL_LINES = [
    line for page in documents.PAGES for line in (*documents.command_lines(page), *documents.inline_commands(page))
]
# Lines for a board's shell. The install lines are resolved by tests/e2e/installs/test_documented_installs.py.
ON_A_BOARD = ("sudo ", "scp ", "export ", "python3 -m venv ", "~/efficientquant/bin/pip install ", "deploy/")
RUN_ELSEWHERE = ("make ", "sqlite3 ")  # the targets are checked below, the SQL is run by the tests of the store


@pytest.mark.parametrize("line", ALL_LINES, ids=lambda line: line.text.partition("  ")[0])
def test_every_printed_command_can_be_typed(line):
    """Each command that a page prints is known, and its options and arguments are accepted."""
    program, *arguments = words = shlex.split(line.text, comments=True)
    agent = next((place for place, word in enumerate(words) if word.endswith("bin/efficientquant-agent")), None)
    if program == "efficientquant-agent" or agent is not None:
        parse_for_agent(words[(agent or 0) + 1 :])
    elif program == "efficientquant":
        parse(arguments)
    elif program == "make":
        assert re.search(rf"^{arguments[0]}\b.*:.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert line.text.startswith((*ON_A_BOARD, *RUN_ELSEWHERE)), line


def parse_for_agent(arguments):
    """Check a command line of `efficientquant-agent` as the agent does.

    Raises the agent's UsageError for a wrong one.
    """
    is_doctor = arguments[:1] == ["doctor"]
    options = (command if is_doctor else config).build_parser().parse_args(arguments[is_doctor:])
    if options.controller != "…":
        config.from_options(options, {})


def parse(arguments):
    """Parse a command line of `efficientquant` without running it.

    Raises click's UsageError for a wrong one.
    """
    group = typer.main.get_command(app)
    with group.make_context("efficientquant", list(arguments)) as context:
        name, verb, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        verb.make_context(name, rest, parent=context).close()
