"""`efficientquant table1`: the paper's Table 1, published and measured."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.given import say_made
from efficientquant_controller.cli.library.evaluate import ABSENT, with_error
from efficientquant_controller.cli.library.model_names import require_model
from efficientquant_controller.cli.numbers import InputSize, Limit, WeightsSeed
from efficientquant_controller.cli.options import Json, split_list
from efficientquant_controller.cli.phases import PhaseProgress
from efficientquant_controller.errors import UserError

if TYPE_CHECKING:
    from efficientquant.paper.table1 import Cell
    from rich.table import Table


def command(
    data: Annotated[
        Path, typer.Option("--data", metavar="IMAGENET_VAL", help="ImageNet's validation images, or any labelled ones.")
    ],
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", metavar="TRAIN", help="Training images; train/ next to the data if left out."),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="pretrained|random|DIR",
            help="timm's weights, seeded ones, or a folder of checkpoints.",
        ),
    ] = "pretrained",
    models: Annotated[
        str | None,
        typer.Option("--models", metavar="NAME,NAME", help="Only these models; the paper's ten if left out."),
    ] = None,
    recipes: Annotated[
        str | None, typer.Option("--recipes", metavar="R,R", help="Only these recipes; every named one if left out.")
    ] = None,
    limit: Limit = None,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Keeps one file per measured cell; finds those of earlier runs."),
    ] = Path("table1"),
    input_size: InputSize = None,
    seed: WeightsSeed = 0,
    as_json: Json = False,
) -> None:
    """Measure models × recipes as artifacts in ONNX Runtime.

    The paper's published Table 1 is printed too. After an interruption the same command continues.
    """
    from efficientquant.files.given_paths import checkpoint_of, require_images
    from efficientquant.files.whole_files import require_folder
    from efficientquant.paper.published import MODELS
    from efficientquant.recipe import get_recipe, list_recipes

    wanted = [get_recipe(name) for name in _named(recipes, "--recipes", list_recipes())]
    if recipes is None:  # those that take seconds come first
        wanted.sort(key=lambda recipe: recipe.needs_calibration)
    names = _named(models, "--models", MODELS)
    require_images(data)
    require_images(calibration)
    for name in names:
        require_model(name)
        checkpoint_of(weights, name)
    require_folder(out)
    made = [] if out.is_dir() else [out]
    total = len(names) * len(wanted)
    cells: list[Cell] = []
    measured = 0
    with PhaseProgress() as progress:
        progress.step("loading")
        from efficientquant.paper.table1 import TableRequest, measure_table

        request = TableRequest(
            models=names,
            recipes=wanted,
            data=data,
            calibration=calibration,
            weights=weights,
            limit=limit,
            seed=seed,
            input_size=input_size,
        )

        def begin(model: str, recipe: str) -> Callable[[str, float], None]:
            nonlocal measured
            measured += 1
            return progress.step(f"{len(cells) + 1}/{total} {model} · {recipe}")

        try:
            for cell in measure_table(request, out, begin):
                cells.append(cell)
        finally:
            if cells:
                say_made(made)
            if 0 < len(cells) < total:
                output.print_message(
                    f"{len(cells)} of {total} cells are kept in {out}; the same command continues from there"
                )
    output.print_message(f"{total} cells: {measured} measured now, {total - measured} found in {out}")
    if as_json:
        output.print_json({"cells": [cell.to_dict() for cell in cells], "published": published_facts(names)})
    else:
        print_tables(names, [recipe.name for recipe in wanted], cells)


def print_tables(models: Sequence[str], recipes: Sequence[str], cells: "Sequence[Cell]") -> None:
    """Print the published, the measured and the bit table.

    Sources and notes follow.
    """
    from efficientquant.paper.published import CAVEAT, FP32_SOURCE, TABLE_1_SOURCE

    console = output.stdout_console()
    for table in (published_table(models), measured_table(models, recipes, cells), cell_bits_table(recipes, cells)):
        console.print(table)
        console.print()
    for line in (f"published: {TABLE_1_SOURCE}", f"published FP32: {FP32_SOURCE}", CAVEAT, *_notes(cells)):
        output.print_line(line)


def published_table(models: Sequence[str]) -> "Table":
    """Return the published ImageNet top-1 accuracies in percent."""
    from efficientquant.paper.published import FP32, METHODS, TABLE_1

    table = output.new_table("model", "FP32", *METHODS, title="published, ImageNet top-1 %")
    for model in models:
        figures = (FP32.get(model), *TABLE_1.get(model, (None,) * len(METHODS)))
        table.add_row(model, *(ABSENT if figure is None else f"{figure:.2f}" for figure in figures))
    return _right(table, 1)


def measured_table(models: Sequence[str], recipes: Sequence[str], cells: "Sequence[Cell]") -> "Table":
    """Return the measured top-1 accuracies with their standard errors.

    The columns are FP32 in torch and each recipe's artifact, in percent.
    """
    evaluations = {(cell.model, cell.recipe): cell.evaluation for cell in cells}
    table = output.new_table("model", "images", "FP32 eager", *recipes, title="measured here, top-1 % ± standard error")
    for model in models:
        row = [evaluations.get((model, recipe)) for recipe in recipes]
        first = next((evaluation for evaluation in row if evaluation is not None), None)
        if first is None:
            continue
        fp32 = ABSENT if first.reference_top1 is None else f"{first.reference_top1 * 100:.2f}"
        figures = [
            ABSENT if evaluation is None else with_error(evaluation.top1, evaluation.top1_error) for evaluation in row
        ]
        table.add_row(model, str(first.images), fp32, *figures)
    return _right(table, 1)


def cell_bits_table(recipes: Sequence[str], cells: "Sequence[Cell]") -> "Table":
    """Return the bits of each recipe's artifacts.

    A recipe has one row for each distinct set of bits among its models.
    """
    classes = list(dict.fromkeys(name for cell in cells for name in cell.evaluation.bit_table))
    table = output.new_table("recipe", "models", *classes, title="bits")
    for recipe in recipes:
        counts: dict[tuple[str, ...], int] = {}
        for cell in cells:
            if cell.recipe == recipe:
                bits = tuple(cell.evaluation.bit_table.get(name, ABSENT) for name in classes)
                counts[bits] = counts.get(bits, 0) + 1
        for bits, count in counts.items():
            table.add_row(recipe, str(count), *bits)
    return table


def published_facts(models: Sequence[str]) -> dict[str, Any]:
    """Return the published figures and their sources as JSON values."""
    from efficientquant.paper.published import CAVEAT, FP32, FP32_SOURCE, METHODS, TABLE_1, TABLE_1_SOURCE

    rows = {
        model: {"FP32": FP32[model], **dict(zip(METHODS, TABLE_1[model], strict=True))}
        for model in models
        if model in TABLE_1
    }
    return {"top1_percent": rows, "source": TABLE_1_SOURCE, "fp32_source": FP32_SOURCE, "caveat": CAVEAT}


def _notes(cells: "Sequence[Cell]") -> list[str]:
    synthetic = sum(cell.key["calibration"] == "synthetic" for cell in cells)
    notes = [f"{cell.model}: {note}" for cell in cells for note in cell.evaluation.notes]
    if synthetic:
        notes.append(
            f"{synthetic} cells have no calibration data and used synthetic images where their recipe calibrates"
        )
    return list(dict.fromkeys(notes))


def _named(text: str | None, option: str, everything: Sequence[str]) -> list[str]:
    names = list(everything) if text is None else split_list(text)
    if not names:
        raise UserError(f"{option} names nothing; leave it out for {', '.join(everything)}")
    return list(dict.fromkeys(names))


def _right(table: "Table", first: int) -> "Table":
    for column in table.columns[first:]:
        column.justify = "right"
    return table
