"""The parameters and MACs of a model, by either identification rule."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from efficientquant.graph.capture import capture
from efficientquant.graph.manifest import Manifest, ManifestEntry, build_manifest
from efficientquant.graph.structure import find_printed_defects, paper_blocks
from efficientquant.models import create_skeleton, input_spec
from efficientquant.options import IdentificationRule

PRODUCTS_GROUP = "attention-products"
NEITHER_GROUP = "neither"


@dataclasses.dataclass(frozen=True)
class Group:
    """The modules of one role or printed block, with parameters and MACs.

    `macs` are per image.
    """

    name: str
    modules: int
    parameters: int
    macs: int


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A model's structure by one identification rule.

    `groups` add up to all parameters and all MACs. `convolutional` and `transformer` name modules that `get_submodule`
    finds. `defects` say what the printed rule gets wrong on this model. They are empty for the graph rule.
    """

    model: str
    rule: IdentificationRule
    input_shape: tuple[int, int, int]
    manifest: Manifest
    groups: list[Group]
    convolutional: list[str]
    transformer: list[str]
    defects: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as JSON-ready values, with shares of the totals."""
        return {
            "model": self.model,
            "rule": self.rule.value,
            "input_shape": list(self.input_shape),
            "weights": "none loaded: structure does not depend on them",
            "total_parameters": self.manifest.parameters,
            "total_macs": self.manifest.macs,
            "groups": [dataclasses.asdict(group) for group in self.groups],
            "convolutional": self.convolutional,
            "transformer": self.transformer,
            "defects": self.defects,
            **self.manifest.to_dict(),
        }


def inspect(
    model: str | nn.Module, rule: IdentificationRule | str = IdentificationRule.GRAPH, *, name: str | None = None
) -> Inspection:
    """Return the structure of a timm classifier by one identification rule.

    It takes O(n) in the graph's size. A model given by name is built without weights, since structure does not depend
    on them. The graph rule classifies operators by what they do. The paper rule is Algorithm 1 as printed, but with
    names that resolve, and its defects are counted. Each parameter counts once, MACs are per image. Raises
    UnknownModelError, CaptureError.
    """
    rule = IdentificationRule(rule)
    shown = name or (model if isinstance(model, str) else type(model).__name__)
    module = create_skeleton(model) if isinstance(model, str) else model
    shape = input_spec(module).shape
    with next((parameter.device for parameter in module.parameters()), torch.device("cpu")):
        graph = capture(module, shape)
    manifest = build_manifest(module, graph)
    if rule is IdentificationRule.PAPER:
        convolutional, transformer = paper_blocks(module)
        groups = _by_printed_block(manifest, set(convolutional), set(transformer))
        defects = find_printed_defects(module, manifest)
    else:
        convolutional, transformer = _graph_blocks(manifest)
        groups, defects = _by_role(manifest), []
    return Inspection(shown, rule, shape, manifest, groups, convolutional, transformer, defects)


def _graph_blocks(manifest: Manifest) -> tuple[list[str], list[str]]:
    """Return the (convolutional, transformer) modules by the graph rule.

    They are the modules that own a convolution or linear, classified by its part in the graph.
    """
    owners = [entry for entry in manifest.entries.values() if entry.operator in ("conv2d", "linear")]
    transformer = dict.fromkeys(entry.module for entry in owners if entry.in_transformer)
    convolutional = dict.fromkeys(entry.module for entry in owners if entry.operator == "conv2d")
    return [name for name in convolutional if name not in transformer], list(transformer)


def _by_role(manifest: Manifest) -> list[Group]:
    by_role: dict[str, list[ManifestEntry]] = {}
    for entry in manifest.entries.values():
        by_role.setdefault(entry.role.value, []).append(entry)
    return [_group(name, entries) for name, entries in by_role.items()] + _products(manifest)


def _by_printed_block(manifest: Manifest, convolutional: set[str], transformer: set[str]) -> list[Group]:
    by_block: dict[str, list[ManifestEntry]] = {"CNN": [], "Transformer": [], NEITHER_GROUP: []}
    for entry in manifest.entries.values():
        block = "CNN" if entry.module in convolutional else NEITHER_GROUP
        by_block["Transformer" if entry.module in transformer else block].append(entry)
    return [_group(name, entries) for name, entries in by_block.items()] + _products(manifest)


def _group(name: str, entries: Iterable[ManifestEntry]) -> Group:
    members = list(entries)
    return Group(
        name=name,
        modules=len({entry.module for entry in members}),
        parameters=sum(entry.parameters for entry in members),
        macs=sum(entry.macs for entry in members),
    )


def _products(manifest: Manifest) -> list[Group]:
    """Return the products of activations as one group without parameters."""
    modules = {product.module for product in manifest.products}
    macs = sum(product.macs for product in manifest.products)
    return [Group(PRODUCTS_GROUP, len(modules), 0, macs)] if manifest.products else []
