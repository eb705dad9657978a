"""Counts of the float operators that emulate what no runtime has.

Marks on nodes say what they emulate. Files keep the counts in their metadata.
"""

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import onnx
import onnx_ir as ir

from efficientquant.quantizers import EMULATED, EMULATED_AT

METADATA = "efficientquant.emulation"


class Emulation(NamedTuple):
    """How often a file emulates one kind of operation.

    `places` counts the sites, `operators` the nodes there.
    """

    places: int
    operators: int


def count_emulation(nodes: Iterable[ir.Node]) -> dict[str, Emulation]:
    """Return the emulation by its kind, such as "log2 quantizer"."""
    places: dict[str, list[str]] = {}
    for node in nodes:
        kind = node.metadata_props.get(EMULATED)
        if kind is not None and node.op_type != "Constant":
            places.setdefault(kind, []).append(node.metadata_props[EMULATED_AT])
    return {kind: Emulation(len(set(own)), len(own)) for kind, own in sorted(places.items())}


def write_emulation(model: ir.Model, emulation: Mapping[str, Emulation]) -> None:
    """Keep the counts in a model's metadata, where there are any."""
    if emulation:
        model.metadata_props[METADATA] = json.dumps(emulation, sort_keys=True)


def read_emulation(model: onnx.ModelProto) -> dict[str, Emulation]:
    """Return the counts in a file's metadata.

    A file that another program wrote has none, or none that can be read.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA), "{}")
    try:
        return {str(kind): Emulation(*map(int, counts)) for kind, counts in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def describe_emulation(emulation: Mapping[str, Emulation]) -> str:
    """Return the counts as one phrase.

    It reads like "log2 quantizer: 72 operators at 9 places".
    """
    return ", ".join(
        f"{kind}: {_counted(own.operators, 'operator')} at {_counted(own.places, 'place')}"
        for kind, own in emulation.items()
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
