"""A quantized artifact next to its float twin on the same target."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from efficientquant.verdicts.build_verdict import BuildVerdict, Comparison
from efficientquant.verdicts.costs.cost_model import NO_MEASUREMENT

# A file that has more of all of these than its twin is worse in all that a build shows of its speed and size.
_MORE = {"kernels": "more kernels", "weights_bytes": "larger weights", "modelled_s": "a longer modelled time"}


@dataclasses.dataclass(frozen=True)
class Other:
    """The file that an artifact is compared with.

    `name` is a phrase such as "its fp16 twin", `origin` says how it was made. `advice` is what to do where it is better
    in everything.
    """

    name: str
    origin: str
    advice: str


def compare(verdict: BuildVerdict, other: Other, its_verdict: BuildVerdict) -> BuildVerdict:
    """Return a verdict with the numbers of another file.

    Both are for the same target. Where the other file is better in everything, the gain says that quantization does not
    help there.
    """
    here, there = verdict.measures, its_verdict.measures
    shared = [key for key in here if key in there]
    if not its_verdict.builds or not shared:
        return dataclasses.replace(verdict, gain=f"{verdict.gain}; {other.name} is not built there to compare with")
    own, its = ({key: measures[key] for key in shared} for measures in (here, there))
    comparison = Comparison(other.name, other.origin, own, its)
    decisive = [key for key in _MORE if key in shared]
    is_worse = len(decisive) > 1 and all(here[key] > there[key] for key in decisive)
    gain = f"{verdict.gain}; against {other.name}: {_differences(comparison)}"
    if is_worse:
        gain = f"nothing there: {_worse(comparison, decisive)} than {other.name}; {other.advice}"
    return dataclasses.replace(verdict, gain=gain, comparison=comparison)


def _worse(comparison: Comparison, decisive: list[str]) -> str:
    parts = [f"{_MORE[key]} ({_pair(key, comparison, 'against')}{_remark(key, '; {}')})" for key in decisive]
    return f"it has {', '.join(parts[:-1])} and {parts[-1]}"


def _differences(comparison: Comparison) -> str:
    parts = []
    for key in ("nodes", "kernels", "weights_bytes", "file_bytes", "modelled_s"):
        if key in comparison.artifact:
            parts.append(f"{_LABELS[key]} {_pair(key, comparison, 'instead of')}{_remark(key, ' ({})')}")
    return ", ".join(parts)


# The numbers of a comparison as a person reads them.
_LABELS = {
    "kernels": "kernels",
    "fused_attention_kernels": "fused attentions",
    "dequantize_kernels": "dequantize kernels",
    "nodes": "nodes",
    "dequantize_nodes": "dequantize nodes",
    "weights_bytes": "weights",
    "plan_bytes": "plan",
    "file_bytes": "file",
    "modelled_s": "modelled time",
}


def comparison_rows(comparison: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return a stored comparison as (label, this file's, the other's)."""
    rows = []
    for key, here in comparison["artifact"].items():
        label = f"modelled time ({NO_MEASUREMENT})" if key == "modelled_s" else _LABELS[key]
        rows.append((label, _shown(key, here), _shown(key, comparison["other"][key])))
    return rows


def _remark(key: str, form: str) -> str:
    return form.format(NO_MEASUREMENT) if key == "modelled_s" else ""


def _pair(key: str, comparison: Comparison, word: str) -> str:
    return f"{_shown(key, comparison.artifact[key])} {word} {_shown(key, comparison.other[key])}"


def _shown(key: str, value: float) -> str:
    """Return a number with the unit that its key ends in."""
    if key.endswith("_bytes"):
        return f"{value / 2**20:.2f} MiB" if value >= 1 << 17 else f"{value / 2**10:.1f} KiB"
    if key.endswith("_s"):
        return f"{value * 1e6:.0f} µs" if value >= 1e-4 else f"{value * 1e6:.1f} µs"
    return str(value)
