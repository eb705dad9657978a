"""`efficientquant inspect`: the blocks, parameters and MACs of a model."""

from typing import TYPE_CHECKING, Annotated

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.library.model_names import require_model
from efficientquant_controller.cli.options import Json
from efficientquant_controller.cli.phases import PhaseProgress
from efficientquant_controller.errors import UserError

if TYPE_CHECKING:
    from efficientquant.graph.inspection import Inspection
    from efficientquant.graph.manifest import Manifest
    from rich.table import Table

RULES = ("graph", "paper")


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A timm model, e.g. mobilevit_xxs.")],
    rule: Annotated[
        str,
        typer.Option(
            "--rule", metavar="|".join(RULES), help="By what the graph does, or the paper's Algorithm 1 as printed."
        ),
    ] = "graph",
    parameters: Annotated[bool, typer.Option("--parameters", help="List every parameter, not only the roles.")] = False,
    as_json: Json = False,
) -> None:
    """Show a model's blocks, parameters and MACs by role.

    Only the structure is read, so no weights are loaded.
    """
    if rule not in RULES:
        raise UserError(f"--rule {rule} is not known; choose {' or '.join(RULES)}")
    require_model(model)
    with PhaseProgress() as progress:
        progress.step(f"capturing {model}: its structure only, no weights are loaded")
        from efficientquant.graph.inspection import inspect

        inspection = inspect(model, rule)
    if as_json:
        output.print_json(inspection.to_dict())
        return
    console = output.stdout_console()
    if parameters:
        console.print(parameter_table(inspection.manifest))
        console.print()
    console.print(group_table(inspection))
    for line in _facts(inspection):
        output.print_line(line)


def group_table(inspection: "Inspection") -> "Table":
    """Return the shares of roles or printed blocks, and the totals."""
    heading = "role" if inspection.rule == "graph" else "block"
    table = output.new_table(heading, "modules", "parameters", "share", "MACs per image", "share")
    parameters, macs = inspection.manifest.parameters, inspection.manifest.macs
    for column in table.columns[1:]:
        column.justify = "right"
    for group in inspection.groups:
        held, work = f"{group.parameters:,}", f"{group.macs:,}"
        shares = f"{group.parameters / max(parameters, 1):.1%}", f"{group.macs / max(macs, 1):.1%}"
        table.add_row(group.name, str(group.modules), held, shares[0], work, shares[1])
    table.add_section()
    table.add_row("total", "", f"{parameters:,}", "", f"{macs:,}", "")
    return table


def parameter_table(manifest: "Manifest") -> "Table":
    """Return a table with one row per parameter."""
    table = output.new_table("parameter", "operator", "role", "shape", "parameters", "MACs", "bits", "granularity")
    for column in table.columns[4:7]:
        column.justify = "right"
    for entry in manifest.entries.values():
        shape = "×".join(map(str, entry.shape))
        numbers = (f"{entry.parameters:,}", f"{entry.macs:,}", str(entry.bits))
        table.add_row(entry.parameter, entry.operator, entry.role.value, shape, *numbers, entry.granularity)
    return table


def _facts(inspection: "Inspection") -> list[str]:
    """Return the counts below the table and the printed rule's defects."""
    weights = [entry for entry in inspection.manifest.entries.values() if len(entry.shape) > 1]
    counts = {kind: sum(entry.operator == kind for entry in weights) for kind in ("conv2d", "linear")}
    tokens = sorted({site.tokens for site in inspection.manifest.softmax_sites}, reverse=True)
    over = f" (over {', '.join(map(str, tokens))} tokens)" if tokens else ""
    return [
        "",
        f"convolutions: {counts['conv2d']}, linears: {counts['linear']}, "
        f"softmax sites: {len(inspection.manifest.softmax_sites)}{over}",
        f"modules by this rule: {len(inspection.convolutional)} convolutional, "
        f"{len(inspection.transformer)} transformer",
        *(f"defect of the printed rule: {defect}" for defect in inspection.defects),
    ]
