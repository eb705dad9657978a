"""`efficientquant audit`: the paper's printed formulas and corrected ones on a model."""

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
    for table in (weight_table(findings), softmax_table(findings), logit_table(findings)):
        if table.rows:
            console.print(table)
            console.print()
    source = "synthetic images" if data is None else f"images of {data.name}"
    output.print_line(f"on {findings.images} {source}: {findings.conclusion}")


def weight_table(findings: "Audit") -> "Table":
    """Return the SQNR of every convolution weight under each formula.

    The last row has all weights together.
    """
    formulas = list(findings.total_sqnr_db)
    table = _numbers("convolution weight, SQNR in dB", *formulas)
    for weight in findings.weights:
        table.add_row(weight.parameter, *(_decibels(weight.sqnr_db[formula]) for formula in formulas))
    if findings.weights:
        table.add_section()
        table.add_row("all together", *map(_decibels, findings.total_sqnr_db.values()))
    return table


def softmax_table(findings: "Audit") -> "Table":
    """Return the SQNR of each softmax under each quantizer.

    SQNR is measured at the probabilities and at the attention output.
    """
    codecs = list(findings.softmax[0].sqnr_db) if findings.softmax else []
    columns = [f"{codec}: {what}" for what in ("probabilities", "output") for codec in codecs]
    table = _numbers("softmax in, SQNR in dB", *columns)
    for site in findings.softmax:
        outputs = (site.output_sqnr_db.get(codec) for codec in codecs)
        table.add_row(site.module, *map(_decibels, site.sqnr_db.values()), *map(_decibels, outputs))
    return table


def logit_table(findings: "Audit") -> "Table":
    """Return the effect of each weight and softmax quantizer on the logits."""
    labelled = any(row.top1 is not None for row in findings.logits)
    table = _numbers("weights", "softmax", "logits, SQNR in dB", "agrees with FP32", *(["top-1"] if labelled else []))
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


def _decibels(value: float | None) -> str:
    if value is None:
        return "–"
    return "exact" if value == float("inf") else f"{value:.1f}"
