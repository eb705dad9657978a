"""`efficientquant audit`: what the paper's printed formulas do to a model, beside corrected ones."""

from typing import TYPE_CHECKING

from efficientquant_controller.cli import output
from efficientquant_controller.cli.given import DEFAULT_IMAGES, require_inputs
from efficientquant_controller.cli.library.local_model import (
    DataSource,
    ModelName,
    WeightsSource,
    open_batch,
    open_model,
)
from efficientquant_controller.cli.library.model_names import require_model
from efficientquant_controller.cli.numbers import ImageCount, InputSize
from efficientquant_controller.cli.options import Json
from efficientquant_controller.cli.phases import PhaseProgress

if TYPE_CHECKING:
    from efficientquant.paper.audit import Audit
    from rich.table import Table


def command(
    model: ModelName,
    weights: WeightsSource = "pretrained",
    data: DataSource = None,
    images: ImageCount = None,
    input_size: InputSize = None,
    as_json: Json = False,
) -> None:
    """Show what equations 1 to 6 of the paper do to a model, as printed and as corrected."""
    require_model(model)
    require_inputs(weights, data)
    with PhaseProgress() as bars:
        report = bars.step(f"auditing {model}")
        report("torch, timm and weights", 0.0)
        from efficientquant.models import input_spec
        from efficientquant.paper.audit import audit

        module = open_model(model, weights, input_size)
        batch, labels = open_batch(data, input_spec(module), images or DEFAULT_IMAGES)
        found = audit(module, batch, labels, progress=report)
    if as_json:
        output.print_json(found.to_dict())
        return
    console = output.stdout_console()
    for table in (weight_table(found), softmax_table(found), logit_table(found)):
        if table.rows:
            console.print(table)
            console.print()
    source = "synthetic images" if data is None else f"images of {data.name}"
    output.print_line(f"on {found.images} {source}: {found.conclusion}")


def weight_table(found: "Audit") -> "Table":
    """SQNR of every convolution weight under each formula, and of all together."""
    formulas = list(found.total_sqnr_db)
    table = _numbers("convolution weight, SQNR in dB", *formulas)
    for one in found.weights:
        table.add_row(one.parameter, *(_decibels(one.sqnr_db[formula]) for formula in formulas))
    if found.weights:
        table.add_section()
        table.add_row("all together", *map(_decibels, found.total_sqnr_db.values()))
    return table


def softmax_table(found: "Audit") -> "Table":
    """SQNR of the probabilities and of the attention output, for each softmax and quantizer."""
    codecs = list(found.softmax[0].sqnr_db) if found.softmax else []
    columns = [f"{codec}: {what}" for what in ("probabilities", "output") for codec in codecs]
    table = _numbers("softmax in, SQNR in dB", *columns)
    for one in found.softmax:
        outputs = (one.output_sqnr_db.get(codec) for codec in codecs)
        table.add_row(one.module, *map(_decibels, one.sqnr_db.values()), *map(_decibels, outputs))
    return table


def logit_table(found: "Audit") -> "Table":
    """What each choice does to the model's answers."""
    labelled = any(one.top1 is not None for one in found.logits)
    table = _numbers("weights", "softmax", "logits, SQNR in dB", "agrees with FP32", *(["top-1"] if labelled else []))
    table.columns[1].justify = "left"
    for one in found.logits:
        top1 = [] if one.top1 is None else [f"{one.top1:.2%}"]
        logits = "overflow" if one.finite < 1 else "exact" if one.sqnr_db is None else _decibels(one.sqnr_db)
        table.add_row(one.weights, one.softmax, logits, f"{one.agreement:.1%}", *top1)
    return table


def _numbers(heading: str, *columns: str) -> "Table":
    table = output.new_table(heading, *columns)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _decibels(value: float | None) -> str:
    if value is None:
        return "–"
    return "exact" if value == float("inf") else f"{value:.1f}"
