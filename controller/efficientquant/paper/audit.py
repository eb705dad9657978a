"""Comparison of the paper's printed formulas with corrected ones, on any model."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from efficientquant import primitives
from efficientquant.errors import CalibrationError
from efficientquant.graph.attention import AttentionProbe, Codec, Noise, SiteNoise
from efficientquant.graph.capture import call_nodes, capture, fold_batch_norm, get_tensor, set_tensor
from efficientquant.graph.edits import insert_behind, observing
from efficientquant.graph.manifest import module_of
from efficientquant.graph.structure import SOFTMAX, find_weights
from efficientquant.images.calibration import CHUNK, Progress, run_calibration
from efficientquant.models import input_spec
from efficientquant.observers import RangeObserver
from efficientquant.options import Granularity, IdentificationRule, Scope
from efficientquant.paper import as_printed
from efficientquant.primitives import DataFreeLog2, require_finite

BITS = 8
EPSILON = 1e-5
OCTAVES = 20
PRINTED = "as printed"
CHANNEL = "symmetric per channel"
CALIBRATED = "log2 A"
DATA_FREE = "log2 G"


@dataclasses.dataclass(frozen=True)
class WeightAudit:
    """The SQNR in dB of each formula for one convolution weight."""

    parameter: str
    sqnr_db: dict[str, float]


@dataclasses.dataclass(frozen=True)
class SoftmaxAudit:
    """The SQNR in dB of each quantizer behind one softmax.

    `sqnr_db` is that of the probabilities, `output_sqnr_db` that of the attention output.
    """

    module: str
    sqnr_db: dict[str, float]
    output_sqnr_db: dict[str, float]


@dataclasses.dataclass(frozen=True)
class LogitAudit:
    """The effect of one choice of formulas on the whole model.

    `sqnr_db` is None where the logits are exact, or where they overflowed. `finite` is the share of images whose logits
    are numbers. `agreement` is the share of images with the FP32 model's class. `top1` is None without labels.
    """

    weights: str
    softmax: str
    sqnr_db: float | None
    finite: float
    agreement: float
    top1: float | None


@dataclasses.dataclass(frozen=True)
class Audit:
    """The results of printed and corrected formulas at 8 bits.

    `total_sqnr_db` is the SQNR of all weights together, for each formula.
    """

    images: int
    weights: list[WeightAudit]
    total_sqnr_db: dict[str, float]
    softmax: list[SoftmaxAudit]
    logits: list[LogitAudit]
    conclusion: str

    def to_dict(self) -> dict[str, Any]:
        """Return the audit as JSON-ready values.

        An infinite SQNR, as without noise or without a signal, becomes None.
        """
        values: dict[str, Any] = _finite(dataclasses.asdict(self))
        return values


def _finite(value: Any) -> Any:
    """Return nested values with None for infinity and NaN.

    JSON has neither.
    """
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def affine(weight: Tensor) -> Tensor:
    """Return a weight as the corrected affine form quantizes it.

    The range includes 0, values are rounded, and the tensor has one scale.
    """
    require_finite(weight, "a weight")
    low, high = (float(bound) for bound in weight.aminmax())
    low, high = min(low, 0.0), max(high, 0.0)
    top = (1 << BITS) - 1
    step = (high - low) / top or 1.0
    zero_point = round(-low / step)
    return ((weight / step).round().add(zero_point).clamp(0, top) - zero_point) * step


def symmetric(weight: Tensor, granularity: Granularity, *, floor: bool = False) -> Tensor:
    """Return a weight as the symmetric form quantizes it.

    `floor` drops the fraction instead of rounding it.
    """
    scale = primitives.choose_scale(weight, BITS, granularity)
    if floor:
        top = (1 << (BITS - 1)) - 1
        return (weight / scale).floor().clamp(-top, top) * scale
    return primitives.dequantize(primitives.quantize(weight, scale, BITS), scale)


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    PRINTED: partial(as_printed.quantize_weight, bits=BITS),
    "floor per tensor": partial(symmetric, granularity=Granularity.PER_TENSOR, floor=True),
    "symmetric per tensor": partial(symmetric, granularity=Granularity.PER_TENSOR),
    "affine per tensor": affine,
    CHANNEL: partial(symmetric, granularity=Granularity.PER_CHANNEL),
}
# Each formula alone, then both together: (weights, softmax).
CHOICES = (
    *((formula, "float") for formula in FORMULAS),
    *(("float", codec) for codec in (PRINTED, CALIBRATED, DATA_FREE)),
    (PRINTED, PRINTED),
    (CHANNEL, CALIBRATED),
)


class Switch(nn.Module):
    """A module behind a softmax that applies one of its codecs.

    `active` names the codec, or is "float" to apply none.
    """

    def __init__(self, codecs: Mapping[str, Codec]) -> None:
        super().__init__()
        self.codecs = codecs
        self.active = "float"

    def forward(self, probabilities: Tensor) -> Tensor:
        """Return the probabilities as the active codec quantizes them."""
        if self.active == "float":
            return probabilities
        codec = self.codecs[self.active]
        return codec.dequantize(codec.quantize(probabilities))


def audit(model: nn.Module, images: Tensor, labels: Tensor | None = None, *, progress: Progress | None = None) -> Audit:
    """Compare the printed and the corrected Eq. 1-6 on a timm classifier.

    Batch norm is folded. `images` are normalized (N, C, H, W), and log2 ranges are taken from them. `labels` (N,) add
    top-1. The eager model is not changed. Raises CaptureError, CalibrationError, NonFiniteError.
    """
    report = progress or (lambda _phase, _fraction: None)
    report("capture", 0.0)
    spec = input_spec(model)
    if images.ndim != 4 or tuple(images.shape[1:]) != spec.shape or len(images) == 0:
        wanted = f"(N, {', '.join(map(str, spec.shape))}) with N > 0"
        raise CalibrationError(f"the images have shape {tuple(images.shape)}; the model takes {wanted}")
    graph = capture(model, spec.shape)
    fold_batch_norm(graph)
    report("capture", 1.0)
    names = find_weights(model, graph, Scope.CONV, IdentificationRule.GRAPH)
    with torch.no_grad():
        weights, totals = _audit_weights(graph, names)
        codecs = _choose_codecs(graph, images, report)
        softmax = _audit_softmax(graph, codecs, images, report)
        logits = _audit_logits(graph, names, codecs, images, labels, report)
    return Audit(len(images), weights, totals, softmax, logits, _conclude(totals, softmax, logits))


def _audit_weights(graph: fx.GraphModule, names: list[str]) -> tuple[list[WeightAudit], dict[str, float]]:
    totals = {formula: Noise() for formula in FORMULAS}
    audits = []
    for name in names:
        weight = get_tensor(graph, name).detach()
        sqnr_db: dict[str, float] = {}
        for formula, apply in FORMULAS.items():
            approximation = apply(weight)
            sqnr_db[formula] = primitives.sqnr_db(weight, approximation)
            totals[formula].add(weight, approximation)
        audits.append(WeightAudit(name, sqnr_db))
    return audits, {formula: total.sqnr_db for formula, total in totals.items()} if names else {}


def _choose_codecs(graph: fx.GraphModule, images: Tensor, report: Progress) -> dict[fx.Node, dict[str, Codec]]:
    """Return the quantizers of each softmax, their ranges taken from the images."""
    sites = call_nodes(graph, *SOFTMAX)
    if not sites:
        return {}
    with observing(graph, sites, RangeObserver) as observers:
        run_calibration(graph, images, report)
    return {
        site: {
            PRINTED: as_printed.choose_log2(o.smallest, o.largest, BITS, EPSILON),
            CALIBRATED: primitives.choose_log2_parameters(o.smallest, o.largest, BITS, EPSILON),
            DATA_FREE: DataFreeLog2(bits=BITS, octaves=OCTAVES),
        }
        for site, o in zip(sites, observers, strict=True)
    }


def _audit_softmax(
    graph: fx.GraphModule, codecs: Mapping[fx.Node, Mapping[str, Codec]], images: Tensor, report: Progress
) -> list[SoftmaxAudit]:
    if not codecs:
        return []
    probe = AttentionProbe(graph, codecs)
    done = 0
    for chunk in torch.split(images, CHUNK):
        probe.run(chunk)
        done += len(chunk)
        report("attention", done / len(images))
    return [SoftmaxAudit(module_of(site), *_both(noises)) for site, noises in probe.found.items()]


def _both(noises: Mapping[str, SiteNoise]) -> tuple[dict[str, float], dict[str, float]]:
    return (
        {name: noise.probabilities.sqnr_db for name, noise in noises.items()},
        {name: noise.output.sqnr_db for name, noise in noises.items() if noise.output.signal > 0},
    )


def _audit_logits(
    graph: fx.GraphModule,
    names: list[str],
    codecs: Mapping[fx.Node, Mapping[str, Codec]],
    images: Tensor,
    labels: Tensor | None,
    report: Progress,
) -> list[LogitAudit]:
    """Run the whole model in float, then under each choice.

    The graph keeps the last choice.
    """
    switches = [Switch(by_name) for by_name in codecs.values()]
    for index, (site, switch) in enumerate(zip(codecs, switches, strict=True)):
        insert_behind(graph, site, f"switch_{index}", switch)
    graph.recompile()
    originals = {name: get_tensor(graph, name).detach() for name in names}
    exact = _run(graph, images)
    audits = [_logit_audit("float", "float", exact, exact, labels)]
    choices = [(w, s) for w, s in CHOICES if (w == "float" or names) and (s == "float" or switches)]
    for index, (formula, codec) in enumerate(choices):
        for name, weight in originals.items():
            set_tensor(graph, name, FORMULAS[formula](weight) if formula != "float" else weight)
        for switch in switches:
            switch.active = codec
        audits.append(_logit_audit(formula, codec, exact, _run(graph, images), labels))
        report("logits", (index + 1) / len(choices))
    return audits


def _run(graph: fx.GraphModule, images: Tensor) -> Tensor:
    return torch.cat([graph(chunk) for chunk in torch.split(images, CHUNK)])


def _logit_audit(weights: str, softmax: str, exact: Tensor, logits: Tensor, labels: Tensor | None) -> LogitAudit:
    finite = logits.isfinite().all(1)
    classes = torch.where(finite, logits.argmax(1), -1)
    sqnr_db = primitives.sqnr_db(exact, logits)
    return LogitAudit(
        weights=weights,
        softmax=softmax,
        sqnr_db=sqnr_db if math.isfinite(sqnr_db) else None,
        finite=float(finite.double().mean()),
        agreement=float((classes == exact.argmax(1)).double().mean()),
        top1=None if labels is None else float((classes == labels).double().mean()),
    )


def _conclude(totals: Mapping[str, float], softmax: list[SoftmaxAudit], logits: list[LogitAudit]) -> str:
    """Return one sentence that the numbers support."""
    parts = []
    if totals:
        parts.append(f"the weights keep {totals[PRINTED]:.1f} dB, {totals[CHANNEL]:.1f} dB with one scale per channel")
    outputs = [site.output_sqnr_db for site in softmax if site.output_sqnr_db]
    if outputs:
        printed, corrected = (min(output[name] for output in outputs) for name in (PRINTED, CALIBRATED))
        parts.append(f"the worst attention output {printed:.1f} dB, {corrected:.1f} dB with log2 A")
    last = {(row.weights, row.softmax): row for row in logits}
    pairs = (((PRINTED, PRINTED), (CHANNEL, CALIBRATED)), ((PRINTED, "float"), (CHANNEL, "float")))
    for before, after in pairs:
        if before in last:
            shares = [last[choice].agreement for choice in (before, after)]
            parts.append(f"the model agrees with FP32 on {shares[0]:.0%} of the images, {shares[1]:.0%} corrected")
            break
    return f"As printed, {'; '.join(parts)}." if parts else "The model has neither a convolution weight nor a softmax."
