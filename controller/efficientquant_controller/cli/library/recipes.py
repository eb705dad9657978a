"""`efficientquant recipes`: the ways to quantize."""

from typing import TYPE_CHECKING, Any

from efficientquant_controller.cli import output
from efficientquant_controller.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table


def command(as_json: Json = False) -> None:
    """List the recipes: how a model can be quantized."""
    found = recipe_facts()
    if as_json:
        output.print_json(found)
    else:
        output.stdout_console().print(recipe_table(found))


def recipe_facts() -> list[dict[str, Any]]:
    """Each recipe in its stored form, with its summary."""
    from efficientquant.recipe import get_recipe, list_recipes

    found = [get_recipe(name) for name in list_recipes()]
    return [{**one.to_dict(), "summary": one.summary} for one in found]


def recipe_table(facts: list[dict[str, Any]]) -> "Table":
    """The recipes as a table."""
    table = output.new_table("recipe", "version", "what it does")
    for one in facts:
        table.add_row(one["name"], str(one["version"]), one["summary"])
    return table
