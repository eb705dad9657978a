"""`efficientquant recipes`: the ways to quantize."""

from typing import TYPE_CHECKING, Any

from efficientquant_controller.cli import output
from efficientquant_controller.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table


def command(as_json: Json = False) -> None:
    """List the recipes for quantizing a model."""
    facts = recipe_facts()
    if as_json:
        output.print_json(facts)
    else:
        output.stdout_console().print(recipe_table(facts))


def recipe_facts() -> list[dict[str, Any]]:
    """Return each recipe in its stored form, with its summary."""
    from efficientquant.recipe import get_recipe, list_recipes

    recipes = [get_recipe(name) for name in list_recipes()]
    return [{**recipe.to_dict(), "summary": recipe.summary} for recipe in recipes]


def recipe_table(facts: list[dict[str, Any]]) -> "Table":
    """Return the recipes as a table."""
    table = output.new_table("recipe", "version", "what it does")
    for recipe in facts:
        table.add_row(recipe["name"], str(recipe["version"]), recipe["summary"])
    return table
