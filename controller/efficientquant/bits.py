"""The bit table: how many bits each class of tensors has.

Every reported accuracy comes with its bit table.
"""

from collections import Counter
from collections.abc import Collection, Iterable

from efficientquant.graph.structure import Manifest, ManifestEntry, SoftmaxSite
from efficientquant.options import FloatType, Log2Form

_OPERATORS = {"conv": {"conv2d"}, "linear": {"linear"}, "product": {"matmul", "bmm", "baddbmm"}}
LOG2_FORMS = {form.value for form in Log2Form}
FLOAT_BITS = {FloatType.FP32: "32", FloatType.FP16: "16"}


def bit_table(manifest: Manifest, float_type: FloatType, dropped: Collection[str] = ()) -> dict[str, str]:
    """Return the bits of each class of tensors.

    A class that is quantized in part lists each width with its count. `dropped` names the quantizers that an artifact
    leaves out. Their tensors stay in float.
    """
    rest = FLOAT_BITS[float_type]
    table = {
        f"{name} weights": _weights(manifest.entries.values(), operator, rest)
        for name, operator in (("conv", "conv2d"), ("linear", "linear"))
    }
    sites = [(site, rest if site.quantizer in dropped else str(site.bits)) for site in manifest.activation_sites]
    for name, operators in _OPERATORS.items():
        inputs = [bits for site, bits in sites if operators & set(site.consumers)]
        table[f"{name} inputs"] = _summary(inputs) if inputs else rest
    for name in ("conv", "linear"):
        outputs = [bits for site, bits in sites if site.producer in _OPERATORS[name]]
        table[f"{name} outputs"] = _summary(outputs) if outputs else rest
    table["softmax"] = _softmax(manifest, dropped, rest)
    softmaxes = {site.quantizer_name for site in manifest.softmax_sites}
    others = [
        bits
        for site, bits in sites
        if site.quantizer not in dropped and not (site.consumers or site.producer or site.quantizer in softmaxes)
    ]
    if others:
        table["other activations"] = f"{_summary(others)}, at {len(others)} places"
    return table | {"rest": rest}


def _weights(entries: Iterable[ManifestEntry], operator: str, rest: str) -> str:
    matrices = [e for e in entries if e.operator == operator and len(e.shape) > 1]
    return _summary([f"{e.bits} {e.granularity}" if e.bits < 32 else rest for e in matrices]) if matrices else "–"


def _softmax(manifest: Manifest, dropped: Collection[str], rest: str) -> str:
    sites = manifest.softmax_sites
    if not sites:
        return "–"
    return _summary(
        [_softmax_bits(site) if site.bits < 32 and site.quantizer_name not in dropped else rest for site in sites]
    )


def _softmax_bits(site: SoftmaxSite) -> str:
    return f"{site.bits} {'log2-' if site.form in LOG2_FORMS else ''}{site.form}"


def _summary(values: list[str]) -> str:
    """Return the value that all share, or each value with its count."""
    counts = Counter(values)
    if len(counts) == 1:
        return values[0]
    return ", ".join(f"{value} ({count} of {len(values)})" for value, count in counts.most_common())
