"""The verdict of a target on an artifact.

It says whether the target builds the artifact, and how each layer is computed there. Imports no torch.
"""

import dataclasses
import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


class Outcome(enum.StrEnum):
    """The outcome of building the file on the target."""

    BUILDS = "builds"
    BUILDS_WITH_FALLBACK = "builds_with_fallback"  # but quantized layers run in float
    FAILS = "fails"
    UNKNOWN = "unknown"  # too little is known to decide


class Basis(enum.StrEnum):
    """The source of a verdict."""

    PREDICTED = "predicted"  # from operator and precision rules; never built
    BUILT = "built"  # a real builder made an engine of it
    LOADED = "loaded"  # a real runtime loaded and optimized it


class Precision(enum.StrEnum):
    """The arithmetic that a layer is computed in."""

    INT8 = "int8"
    FP16 = "fp16"
    FP32 = "fp32"
    MIXED = "mixed"  # parts of the layer in different types
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class LayerPrecision:
    """One convolution or matrix product and its arithmetic.

    `node` is its ONNX node. `reason` says why it has that arithmetic.
    """

    node: str
    operator: str
    precision: Precision
    reason: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the layer as JSON-ready values."""
        return {key: str(value) for key, value in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True)
class Reason:
    """One reason why a verdict is not simply `builds`.

    `sentence` names the first of the `nodes`.
    """

    rule: str
    outcome: Outcome
    sentence: str
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the sentence with the number of further nodes."""
        others = len(self.nodes) - 1
        if others < 1:
            return self.sentence
        return f"{self.sentence} (and {others} more node{'s' if others > 1 else ''} like it)"

    def to_dict(self) -> dict[str, Any]:
        """Return the reason as JSON-ready values."""
        return {"rule": self.rule, "outcome": str(self.outcome), "sentence": str(self), "nodes": list(self.nodes)}


_SEVERITY = (Outcome.BUILDS, Outcome.BUILDS_WITH_FALLBACK, Outcome.UNKNOWN, Outcome.FAILS)


def worst(reasons: Iterable[Reason]) -> Outcome:
    """Return the worst outcome of several reasons.

    Returns BUILDS where there are none.
    """
    return max((reason.outcome for reason in reasons), key=_SEVERITY.index, default=Outcome.BUILDS)


def group(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """Return one reason for each rule.

    It has the first sentence and the nodes of all.
    """
    groups: dict[str, list[Reason]] = {}
    for reason in reasons:
        groups.setdefault(reason.rule, []).append(reason)
    return tuple(
        dataclasses.replace(alike[0], nodes=tuple(node for reason in alike for node in reason.nodes))
        for alike in groups.values()
    )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The numbers of two files on the same target.

    `name` says what the other file is, `origin` how it was made. Both have the same keys, with units in their names.
    """

    name: str
    origin: str
    artifact: Mapping[str, float]
    other: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON-ready values."""
        return {"with": self.name, "origin": self.origin, "artifact": dict(self.artifact), "other": dict(self.other)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildVerdict:
    """The verdict of a target on an artifact.

    `reasons` say why it fails, or what falls back. `gain` says in one sentence what the quantization gains there.
    `layers` are the convolutions and matrix products. `facts` are numbers of this runtime only, such as the engine's
    layers, the size of the plan, or the operators that remain. `measures` are the numbers that are compared with those
    of another file, and `comparison` is the result.
    """

    target: str
    runtime: str
    basis: Basis
    outcome: Outcome
    gain: str
    reasons: tuple[Reason, ...] = ()
    layers: tuple[LayerPrecision, ...] = ()
    unsupported_operators: tuple[str, ...] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    measures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    comparison: Comparison | None = None

    @property
    def builds(self) -> bool:
        """Whether the target builds it, or is expected to."""
        return self.outcome in (Outcome.BUILDS, Outcome.BUILDS_WITH_FALLBACK)

    def precisions(self) -> dict[str, dict[str, int]]:
        """Return {operator: {precision: layers}}."""
        return count_precisions(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON-ready values."""
        return {
            "target": self.target,
            "runtime": self.runtime,
            "basis": str(self.basis),
            "outcome": str(self.outcome),
            "gain": self.gain,
            "reasons": [reason.to_dict() for reason in self.reasons],
            "unsupported_operators": list(self.unsupported_operators),
            "precisions": self.precisions(),
            "facts": self.facts,
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "layers": [layer.to_dict() for layer in self.layers],
        }


def count_precisions(layers: Iterable[LayerPrecision]) -> dict[str, dict[str, int]]:
    """Return {operator: {precision: layers}}.

    Both are in the order in which they first occur.
    """
    counts: dict[str, Counter[str]] = {}
    for layer in layers:
        counts.setdefault(str(layer.operator), Counter())[str(layer.precision)] += 1
    return {operator: dict(counter) for operator, counter in counts.items()}


def count_int8(layers: Iterable[LayerPrecision]) -> int:
    """Return how many layers compute in integers."""
    return sum(layer.precision is Precision.INT8 for layer in layers)
