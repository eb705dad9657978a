"""Compensated rounding of a network's weights, layer by layer."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from efficientquant.options import Network
from efficientquant.primitives import require_finite
from efficientquant.search.rounding import RoundingProblem, round_nearest
from efficientquant.search.rows import sample_rows
from efficientquant.workbench.recording import join_rows

if TYPE_CHECKING:
    from efficientquant.graph.blocks import Layer
    from efficientquant.search.rounding import RoundingSteps
    from efficientquant.workbench import Workbench
    from efficientquant.workbench.passage import Passage
    from efficientquant.workbench.recording import LayerRows

STEP = "compensated rounding"
# For the images on their way through both networks.
MEMORY_BYTES = 3 << 28


def round_compensated(workbench: Workbench, names: Collection[str], bits: int, steps: RoundingSteps, seed: int) -> None:
    """Round weights so that each makes up for the quantization before it.

    Layers are rounded in execution order. The inputs come from the network as quantized so far, the target is the float
    layer on float inputs. Weights whose layers read constants only are rounded to nearest, before all others.
    """
    layers = [layer for block in workbench.blocks for layer in block.layers if layer.weight in names]
    constant = set(names) - {layer.weight for layer in layers}
    round_to_nearest(workbench, [name for name in names if name in constant], bits, steps.group_size)
    passage = workbench.passage(seed, MEMORY_BYTES)
    done, singular = len(constant), []
    for layer in layers:
        if layer.weight not in workbench.weights:
            if not _round_layer(workbench, layer, _record(workbench, passage, layer, seed), bits, steps):
                singular.append(layer.node)
            done += 1
            workbench.report("round weights", done / len(names))
    if singular:
        workbench.notes.append(
            f"compensated rounding: the equations of {len(singular)} of {len(names)} layers are singular, and their "
            f"refit or feedback was left out: {', '.join(singular)}; a larger ridge helps"
        )


def round_to_nearest(workbench: Workbench, names: Collection[str], bits: int, group_size: int | None) -> None:
    """Round weights to nearest, with scales per channel or group."""
    for name in names:
        codes, scale = round_nearest(workbench.parameter(name), bits, group_size)
        workbench.set_weight(name, codes, scale, bits=bits, group_size=group_size)


def _record(workbench: Workbench, passage: Passage, layer: Layer, seed: int) -> LayerRows:
    """Return a layer's inputs in the quantized network and its float outputs.

    Raises NonFiniteError.
    """
    sample = sample_rows(workbench.parameter(layer.weight), _groups(layer), seed)
    passage.join(layer.node)
    inputs, targets = passage.advance(layer.input, Network.QUANTIZED), passage.advance(layer.output, Network.FLOAT)
    pairs = ((x, y, count) for (x, count), (y, _) in zip(inputs, targets, strict=True))
    rows = join_rows(layer, pairs, passage.count, sample)
    require_finite(rows.inputs, f"the input of {layer.node!r}")
    require_finite(rows.outputs, f"the output of {layer.node!r}")
    return rows


def _groups(layer: Layer) -> int:
    return 1 if layer.window is None else layer.window.groups


def _round_layer(workbench: Workbench, layer: Layer, rows: LayerRows, bits: int, steps: RoundingSteps) -> bool:
    """Round a layer's weight, and return whether all its equations were solved."""
    weight = workbench.parameter(layer.weight)
    problem = RoundingProblem(rows.inputs, rows.outputs, weight, workbench.bias(layer), _groups(layer))
    rounded = problem.round(bits, steps)
    workbench.set_weight(layer.weight, rounded.codes, rounded.scale, bits=bits, group_size=steps.group_size)
    if rounded.bias is not None:
        workbench.set_bias(layer, rounded.bias)
    workbench.record_step(STEP, layer.node, default=rounded.nearest_error, best=rounded.error, rows=len(rows.inputs))
    return rounded.is_solved
