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
    """Each registered recipe as its own dictionary form, with the first sentence that describes it."""
    from efficientquant.recipe import get_recipe, list_recipes

    return [
        {"name": name, "description": _first_line(get_recipe(name)), **get_recipe(name).to_dict()}
        for name in list_recipes()
    ]


def _first_line(recipe: object) -> str:
    return (type(recipe).__doc__ or "").strip().splitlines()[0]


def recipe_table(facts: list[dict[str, Any]]) -> "Table":
    """The recipes as a table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("recipe", "version", "what it does"):
        table.add_column(heading)
    for one in facts:
        table.add_row(one["name"], str(one.get("version", "")), one["description"])
    return table
