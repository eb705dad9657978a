"""`efficientquant evaluate`: accuracy and fidelity of recipes on your images.

Each recipe runs eager and as an artifact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.given import require_inputs, say_unused
from efficientquant_controller.cli.library.model_names import require_model
from efficientquant_controller.cli.numbers import EvaluationCalibrationImages, EvaluationSeed, InputSize, Limit
from efficientquant_controller.cli.options import Json, split_list
from efficientquant_controller.cli.phases import PhaseProgress
from efficientquant_controller.errors import UserError

if TYPE_CHECKING:
    from efficientquant.evaluation import Evaluation
    from efficientquant.images.data import ImageData
    from efficientquant.models import InputSpec
    from efficientquant.recipe import Recipe
    from rich.table import Table

ABSENT = "–"
LEGEND = (
    "± one standard error; Δ top-1: against FP32 on the same images; agree: same first class as FP32; "
    "SQNR and max |Δ|: of all logits against FP32"
)
Row = Mapping[str, Any]


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A timm model, e.g. mobilevit_xxs.")],
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="PATH", help="Labelled images: one folder per class, a root with val/, ImageNet, or .npz."
        ),
    ],
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="R[,R…]", help="How to quantize; see 'efficientquant recipes'.")
    ] = "efficientquant",
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration", metavar="PATH", help="Images to calibrate on; train/ next to the data if left out."
        ),
    ] = None,
    calibration_images: EvaluationCalibrationImages = None,
    weights: Annotated[
        str,
        typer.Option(
            "--weights", metavar="pretrained|random|FILE", help="timm's weights, seeded ones, or a checkpoint."
        ),
    ] = "pretrained",
    target: Annotated[
        str, typer.Option("--for", metavar="TARGET", help="For which target the evaluated artifact is written.")
    ] = "onnxruntime",
    limit: Limit = None,
    input_size: InputSize = None,
    seed: EvaluationSeed = 0,
    as_json: Json = False,
) -> None:
    """Quantize a model and evaluate it against FP32 on your images.

    Each recipe runs eager and as an ONNX file in ONNX Runtime.
    """
    names = split_list(recipe)
    if not names:
        raise UserError("--recipe names nothing; give for example fp32,efficientquant")
    request = Request(model, names, data, calibration, calibration_images, weights, target, limit, input_size, seed)
    rows, notes = evaluate_recipes(request)
    if as_json:
        output.print_json({"model": model, "target": target, "rows": rows, "notes": notes})
        return
    console = output.stdout_console()
    for table in (accuracy_table(rows), bits_table(rows)):
        console.print(table)
        console.print()
    output.print_line(LEGEND)
    for note in notes:
        output.print_line(f"note: {note}")


@dataclass(frozen=True)
class Request:
    """The options of an evaluation."""

    model: str
    recipes: Sequence[str]
    data: Path
    calibration: Path | None
    calibration_images: int | None
    weights: str
    target: str
    limit: int | None
    input_size: int | None
    seed: int


def evaluate_recipes(request: Request) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of an evaluation and the notes on them.

    The rows are timm's FP32, then each recipe eager and as an artifact. Raises UserError or the library's errors for
    inputs that cannot be used.
    """
    from efficientquant.recipe import get_recipe
    from efficientquant.targets import get_target

    recipes = [get_recipe(name) for name in request.recipes]
    get_target(request.target)
    require_model(request.model)
    require_inputs(request.weights, request.data, request.calibration)
    if request.calibration is not None and not any(recipe.needs_calibration for recipe in recipes):
        say_unused("--calibration", f"{', '.join(recipe.name for recipe in recipes)} need no images")
    with PhaseProgress() as progress:
        loading = progress.step(f"loading {request.model}")
        loading("torch, timm and weights", 0.0)
        from efficientquant.artifact.export import export_onnx
        from efficientquant.evaluation import evaluate_all, require_fit
        from efficientquant.files.whole_files import scratch_folder
        from efficientquant.models import checkpoint_notes, create_model, input_spec
        from efficientquant.quantization import quantize

        model = create_model(request.model, request.weights, seed=request.seed, input_size=request.input_size)
        data, images, notes = open_data(request, recipes, input_spec(model))
        notes += checkpoint_notes(model)
        require_fit(model, data)  # before minutes of quantizing
        subjects: list[Any] = [model]
        labels = ["fp32 (timm)"]
        with scratch_folder("evaluate") as folder:
            for recipe in recipes:
                report = progress.step(f"{recipe.name}")
                drawn = None
                if images is not None and recipe.needs_calibration:
                    drawn = images.sample(request.calibration_images or recipe.calibration_images, request.seed)
                quantized = quantize(model, recipe, drawn, progress=report)
                path = folder / f"{len(subjects)}.onnx"
                artifact = export_onnx(quantized, path, target=request.target, progress=report)
                subjects += [quantized, artifact]
                labels += [recipe.name, recipe.name]
                notes += [f"{recipe.name}: {note}" for note in artifact.notes if note not in notes]
            report = progress.step(f"evaluating {len(subjects)} models on {len(data)} images")
            evaluations = evaluate_all(subjects, data, reference=model, progress=report)
    notes += [note for note in data.notes() if note not in notes]
    return [_row(label, evaluation) for label, evaluation in zip(labels, evaluations, strict=True)], notes


def open_data(
    request: Request, recipes: "Sequence[Recipe]", spec: "InputSpec"
) -> "tuple[ImageData, ImageData | None, list[str]]":
    """Return the images to evaluate, those to calibrate on, and notes.

    With None as calibration images, synthetic ones are used. Raises UserError for --calibration-images without
    calibration data.
    """
    from efficientquant.evaluation import LIMIT_SEED
    from efficientquant.images.data import open_images
    from efficientquant.paper.table1 import calibration_source

    data = open_images(request.data, spec, split="val")
    if data.labels is None:
        notes = [f"{request.data.name} has no labels: no accuracy, only how far the logits lie from FP32"]
    else:
        notes = []
    if request.limit is not None:
        data = data.sample(request.limit, LIMIT_SEED)
    source = calibration_source(request.data, request.calibration)
    if source is not None:
        return data, open_images(source, spec, split="train"), notes
    if request.calibration_images is not None:
        raise UserError(
            f"--calibration-images {request.calibration_images} says how many images to calibrate on, and there are "
            f"none: {request.data} has no train/; pass --calibration PATH, or leave it out"
        )
    if any(recipe.needs_calibration for recipe in recipes):
        notes.append(
            "calibrated on synthetic images: evaluation images are not used for it; --calibration PATH gives real ones"
        )
    return data, None, notes


def accuracy_table(rows: Sequence[Row]) -> "Table":
    """Return accuracies with their standard errors and the distance from FP32.

    Accuracies are in percent.
    """
    table = output.new_table(
        "recipe", "run as", "images", "top-1 %", "top-5 %", "Δ top-1", "agree %", "SQNR dB", "max |Δ|"
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row["recipe"],
            row["subject"],
            str(row["images"]),
            with_error(row["top1"], row["top1_error"]),
            percent(row["top5"]),
            with_error(row["top1_change"], row["top1_change_error"], sign=True),
            percent(row["agreement"]),
            ABSENT if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}",
            f"{row['max_abs']:.2e}",
        )
    return table


def bits_table(rows: Sequence[Row]) -> "Table":
    """Return the bits of each class of tensors in each row."""
    classes = list(dict.fromkeys(name for row in rows for name in row["bit_table"]))
    table = output.new_table("recipe", "run as", *classes)
    for row in rows:
        bits = row["bit_table"]
        # A plain float model has one entry, "rest", for everything.
        table.add_row(row["recipe"], row["subject"], *(bits.get(name, bits.get("rest", ABSENT)) for name in classes))
    return table


def percent(fraction: float | None) -> str:
    """Return a fraction as percent with two decimals."""
    return ABSENT if fraction is None else f"{fraction:.2%}".removesuffix("%")


def with_error(fraction: float | None, error: float | None, *, sign: bool = False) -> str:
    """Return a fraction and its standard error in percentage points."""
    if fraction is None or error is None:
        return ABSENT
    return f"{fraction * 100:{'+' if sign else ''}.2f} ± {error * 100:.2f}"


def _row(recipe: str, evaluation: "Evaluation") -> dict[str, Any]:
    return {"recipe": recipe, **evaluation.to_dict()}
