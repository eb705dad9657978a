"""`efficientquant audit`: the paper's printed formulas and corrected ones on a model."""

from typing import TYPE_CHECKING

from efficientquant.graph.layer_names import short_layer_names

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


# What the headings mean.
TERMS = {
    "SQNR": "power of the exact values over that of their error; 6 dB are one bit, below 0 dB the error is larger",
    "as printed": "the paper's equations 1 to 6 as they stand; the others are corrected",
    "floor": "symmetric, but fractions are dropped instead of rounded",
    "symmetric, affine": "integer codes around 0, or with a zero point",
    "per tensor, per channel": "one scale for the whole weight, or one for each output channel",
    "log2 A, log2 G": "codes in steps of powers of two, with the range from images (A) or without any (G)",
    "agrees with FP32": "share of the images with the same class as the float model",
    "layers": "named by their shortest unique names; --json has the full ones",
}


def command(
    model: ModelName,
    weights: WeightsSource = "pretrained",
    data: DataSource = None,
    images: ImageCount = None,
    input_size: InputSize = None,
    as_json: Json = False,
) -> None:
    """Compare the paper's equations as printed and as corrected.

    Equations 1 to 6 are applied to a model.
    """
    require_model(model)
    require_inputs(weights, data)
    with PhaseProgress() as bars:
        report = bars.step(f"auditing {model}")
        report("torch, timm and weights", 0.0)
        from efficientquant.models import input_spec
        from efficientquant.paper.audit import audit

        module = open_model(model, weights, input_size)
        batch, labels = open_batch(data, input_spec(module), images or DEFAULT_IMAGES)
        findings = audit(module, batch, labels, progress=report)
    if as_json:
        output.print_json(findings.to_dict())
        return
    console = output.stdout_console()
    for table in (weight_table(findings), *softmax_tables(findings), logit_table(findings)):
        if table.rows:
            console.print(table)
            console.print()
    for term, meaning in TERMS.items():
        console.print(f"{term}: {meaning}", soft_wrap=not console.is_terminal)
    source = "synthetic images" if data is None else f"images of {data.name}"
    console.print(f"on {findings.images} {source}: {findings.conclusion}", soft_wrap=not console.is_terminal)


def weight_table(findings: "Audit") -> "Table":
    """Return the SQNR of every convolution weight under each formula.

    The last row has all weights together.
    """
    formulas = list(findings.total_sqnr_db)
    table = _numbers("weights\nSQNR in dB", *map(_two_lines, formulas))
    short = short_layer_names([weight.parameter for weight in findings.weights])
    for weight in findings.weights:
        table.add_row(short[weight.parameter], *(_decibels(weight.sqnr_db[formula]) for formula in formulas))
    if findings.weights:
        table.add_section()
        table.add_row("all together", *map(_decibels, findings.total_sqnr_db.values()))
    return table


def softmax_tables(findings: "Audit") -> list["Table"]:
    """Return the SQNR behind each softmax under each quantizer.

    The first table is of the probabilities, the second of the attention's output.
    """
    codecs = list(findings.softmax[0].sqnr_db) if findings.softmax else []
    short = short_layer_names([site.module for site in findings.softmax])
    tables = []
    for what in ("probabilities", "attention output"):
        table = _numbers(f"{what}\nSQNR in dB", *codecs)
        for site in findings.softmax:
            values = site.sqnr_db if what == "probabilities" else site.output_sqnr_db
            table.add_row(short[site.module], *(_decibels(values.get(codec)) for codec in codecs))
        tables.append(table)
    return tables


def logit_table(findings: "Audit") -> "Table":
    """Return the effect of each weight and softmax quantizer on the logits."""
    labelled = any(row.top1 is not None for row in findings.logits)
    table = _numbers("weights", "softmax", "logits\nSQNR in dB", "agrees\nwith FP32", *(["top-1"] if labelled else []))
    table.columns[1].justify = "left"
    for row in findings.logits:
        top1 = [] if row.top1 is None else [f"{row.top1:.2%}"]
        logits = "overflow" if row.finite < 1 else "exact" if row.sqnr_db is None else _decibels(row.sqnr_db)
        table.add_row(row.weights, row.softmax, logits, f"{row.agreement:.1%}", *top1)
    return table


def _numbers(heading: str, *columns: str) -> "Table":
    table = output.new_table(heading, *columns)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _two_lines(heading: str) -> str:
    """Return a heading of several words in two lines."""
    first, _, rest = heading.partition(" ")
    return f"{first}\n{rest}"


def _decibels(value: float | None) -> str:
    if value is None:
        return "–"
    return "exact" if value == float("inf") else f"{value:.1f}"
