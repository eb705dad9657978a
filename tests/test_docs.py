"""What a user can type stands in the documentation."""

import dataclasses
import re
from pathlib import Path

import pytest
import typer
from efficientquant.recipe import get_recipe, list_recipes
from efficientquant.targets import list_targets
from efficientquant_controller.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
QUANTIZATION = PAGES["quantization.md"]


@pytest.mark.parametrize("verb", sorted(typer.main.get_command(app).commands))
def test_every_verb_stands_in_the_documentation(verb):
    """README or a page of docs/ says what each verb is for."""
    assert re.search(rf"efficientquant {verb}\b|`[^`]*\b{verb}\b[^`]*`", "\n".join(PAGES.values()))


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
    """A relative link names a file that is there."""
    folder = ROOT if page == "README.md" else ROOT / "docs"
    links = re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page])
    assert [link for link in links if not (folder / link).exists()] == []
