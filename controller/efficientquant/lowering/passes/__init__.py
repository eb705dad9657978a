"""Rewrites that make a file faster on one runtime.

A pass changes the form of the graph, and no number beyond rounding. Each can be left out by name.
"""

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import onnx_ir as ir

from efficientquant.errors import UnknownPassError
from efficientquant.lowering.passes.flat_linears import flatten_linears
from efficientquant.lowering.passes.gemms import write_gemms
from efficientquant.lowering.passes.group_norms import restore_group_norms
from efficientquant.lowering.passes.projections import clip_projections
from efficientquant.lowering.passes.squares import write_squares_as_powers
from efficientquant.targets import Runtime, Target


class Pass(NamedTuple):
    """A rewrite of a graph and the targets that gain by it.

    `rewrite` returns how many places it changed. A late pass runs after the graph has its types and its opset.
    """

    name: str
    helps: Callable[[Target], bool]
    rewrite: Callable[[ir.Graph], int]
    is_late: bool = False


def _is_rtx(target: Target) -> bool:
    return target.runtime is Runtime.TENSORRT_RTX


def _is_ort(target: Target) -> bool:
    return target.runtime is Runtime.ONNX_RUNTIME


def _is_ort_13(target: Target) -> bool:
    return _is_ort(target) and target.opset == 13


# Docs: quantization.md, "Passes".
PASSES = (
    Pass("flat-linears", _is_rtx, flatten_linears),
    Pass("joint-projections", _is_rtx, clip_projections),
    Pass("group-norms", _is_rtx, restore_group_norms),
    Pass("gemms", _is_ort, write_gemms),
    Pass("powers", _is_ort_13, write_squares_as_powers, is_late=True),
)


def choose_passes(target: Target, without: Collection[str] = ()) -> list[Pass]:
    """Return the passes for a target, except those named in `without`.

    Raises UnknownPassError for a name that no pass has.
    """
    known = [each.name for each in PASSES]
    for name in without:
        if name not in known:
            raise UnknownPassError(name, known)
    return [each for each in PASSES if each.helps(target) and each.name not in without]


def run_passes(graph: ir.Graph, passes: Iterable[Pass], *, late: bool) -> dict[str, int]:
    """Run the early or the late passes.

    Returns how many places each changed.
    """
    return {each.name: each.rewrite(graph) for each in passes if each.is_late is late}
