"""The comparability guard: what differs between two jobs beside what is compared, and whether that forbids it.

One subject at most may differ: the model, the recipe, the device or the runtime. What comes with the subject (the power
modes of a device, the precision that a recipe is for) is a footnote; what was chosen, or defines the metric, refuses.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from efficientquant_controller.analysis.metrics import Metric, Row, Side

MODEL, RECIPE, DEVICE, RUNTIME = "model", "recipe", "device", "runtime"
UNKNOWN = "not recorded"
# Two clocks further apart than this are not the same clock (the verdict's tolerance of a target).
_SAME_CLOCK = 0.01
# The ends of two ranges of a free clock further apart than this are worth a footnote: the comparison's least effect.
_SAME_RANGE = 0.05


@dataclass(frozen=True)
class Found:
    """Sentences that name differences."""

    refusals: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A condition that must be the same, except where the subject brings it along; then it is a footnote.

    `with_subject` are those subjects. Under `lacking_with`, only a value that one side does not have is a footnote: a
    runtime without CUDA graphs has no such setting. `footnote` conditions never refuse.
    """

    label: str
    read: Callable[[Row], str]
    with_subject: frozenset[str] = frozenset()
    lacking_with: frozenset[str] = frozenset()
    footnote: bool = False


def guard(a: Side, b: Side, metric: Metric) -> Found:
    """Name every difference between two jobs that bears on a metric."""
    subjects = subjects_of(a, b)
    refusals: list[str] = []
    footnotes: list[str] = []
    if a.job_id and a.job_id == b.job_id:
        refusals.append(f"both are job {a.job_id}")
    if len(subjects) > 1:
        told = "; ".join(_sentence(one, _SUBJECTS[one], a, b) for one in subjects)
        refusals.append(f"{len(subjects)} things differ where one is compared: {told}")
    for rule in (*RULES, *_metric_rules(metric), *_other_conditions(a, b)):
        if (forbids := _judge(rule, a, b, subjects)) is not None:
            (refusals if forbids else footnotes).append(_sentence(rule.label, rule.read, a, b))
    for sentence, forbids in (*_clock_ranges(a, b, subjects), *_precision(a, b, subjects)):
        (refusals if forbids else footnotes).append(sentence)
    footnotes += _changes(a, b, subjects)
    return Found(tuple(refusals), tuple(footnotes))


def subjects_of(a: Side, b: Side) -> list[str]:
    """Which of model, recipe, device and runtime the two sides differ in."""
    # A name may have belonged to another device before; its id has not.
    keys = {**_SUBJECTS, DEVICE: lambda row: str(row.get("device_id") or _device(row))}
    return [name for name, read in keys.items() if len({*_values(a, read), *_values(b, read)}) > 1]


def runtime_release(row: Row) -> str:
    """The part of a runtime's version that may change everything: TensorRT's first number, ONNX Runtime's first two.

    ONNX Runtime has counted its releases in the second number since 2019.
    """
    numbers = str(row.get("runtime_version") or "").split(".")
    return ".".join(numbers[: 2 if str(row.get("backend")).startswith("ort") else 1])


def condition(name: str) -> Callable[[Row], str]:
    """Read one of the agent's conditions, or else the option that the runtime says it ran with."""
    return lambda row: str(_mapping(row, "conditions").get(name) or _mapping(row, "session_options").get(name) or "")


def column(name: str) -> Callable[[Row], str]:
    """Read a column as text; a mapping in the order of its keys."""

    def read(row: Row) -> str:
        value = row.get(name)
        if isinstance(value, Mapping):
            return ", ".join(f"{key}={value[key]}" for key in sorted(value))
        return "" if value is None else str(value)

    return read


def _runtime(row: Row) -> str:
    words = (str(row.get("backend") or ""), runtime_release(row), str(row.get("providers") or ""))
    return " ".join(word for word in words if word)


def _device(row: Row) -> str:
    return str(row.get("device") or row.get("device_id") or "")


def _cuda_graph(row: Row) -> str:
    """On or off; why one could not be captured stands behind a colon."""
    return condition("cuda_graph")(row).partition(":")[0]


def _transfers(row: Row) -> str:
    """Whether what a device needs of them counts: memory that a GPU shares needs none, and that is its property."""
    needed = condition("memory_kind")(row) in ("pinned", "mapped")
    return "as the device needs them" if needed else condition("transfers")(row)


def _other_options(row: Row) -> str:
    options = _mapping(row, "session_options")
    return ", ".join(f"{name}={options[name]}" for name in sorted({*options} - _KNOWN_OPTIONS))


def _locked(row: Row) -> str:
    state = condition("clocks")(row)
    return state if state in ("", "locked") else "not locked"


def _target(domain: str) -> Callable[[Row], str]:
    def read(row: Row) -> str:
        text = condition(f"clock_{domain}_target_hz")(row)
        return f"{float(text) / 1e6:.0f} MHz" if text else ""

    return read


_SUBJECTS: Mapping[str, Callable[[Row], str]] = {
    MODEL: column("model"),
    RECIPE: column("recipe"),
    DEVICE: _device,
    RUNTIME: _runtime,
}
_OF_DEVICE, _OF_RUNTIME = frozenset({DEVICE}), frozenset({RUNTIME})
RULES = (
    Rule("tier", column("tier")),
    Rule("weights", column("weights")),
    Rule("timing mode", condition("timing_mode"), lacking_with=_OF_RUNTIME),
    Rule("sync mode", condition("sync_mode"), lacking_with=_OF_RUNTIME),
    Rule("CUDA graph", _cuda_graph, lacking_with=_OF_RUNTIME),
    Rule("transfers", _transfers, lacking_with=_OF_RUNTIME),
    Rule("kind of buffers", condition("memory_kind"), _OF_DEVICE, _OF_RUNTIME),
    Rule("power mode", condition("power_mode"), _OF_DEVICE),
    Rule("clocks", _locked),
    Rule("GPU clock", _target("gpu"), _OF_DEVICE),
    Rule("memory clock", _target("emc"), _OF_DEVICE),
    Rule("CPU clock", _target("cpu"), _OF_DEVICE),
    Rule("CPUs of the measuring thread", condition("measuring_thread_cpus"), _OF_DEVICE),
    Rule("session options", _other_options, _OF_RUNTIME),
    Rule("target of the artifact", column("target"), _OF_DEVICE | _OF_RUNTIME),
    Rule("runtime version", column("runtime_version"), footnote=True),
    Rule("agent version", column("agent_version"), footnote=True),
    Rule("statistics version", column("statistics_version"), footnote=True),
    Rule("state of the clocks", condition("clocks"), footnote=True),
)
# Options that have a rule of their own.
_KNOWN_OPTIONS = frozenset(
    {"timing_mode", "sync_mode", "cuda_graph", "transfers", "memory_kind", "measuring_thread_cpus"}
)
_KNOWN_CONDITIONS = frozenset(
    {
        *("timing_mode", "sync_mode", "cuda_graph", "transfers", "memory_kind", "power_mode", "clocks", "rail_set"),
        *(f"clock_{domain}_target_hz" for domain in ("gpu", "emc", "cpu")),
    }
)


def _metric_rules(metric: Metric) -> list[Rule]:
    """What defines this metric: no subject brings another definition along."""
    found = []
    if metric.is_energy:
        found.append(Rule("rail set", lambda row: str(row.get("rail_set") or condition("rail_set")(row))))
    if metric.definition:
        found.append(Rule("what memory means", column(metric.definition)))
    if metric.is_load:
        words = {True: "not in the page cache", False: "in the page cache"}
        found.append(Rule("the artifact before loading", lambda row: words.get(row.get("load_cold"), "")))  # type: ignore[arg-type]
    return found


def _other_conditions(a: Side, b: Side) -> list[Rule]:
    """Conditions that no rule knows are told, and forbid nothing."""
    names = {name for side in (a, b) for row in side.repeats for name in _mapping(row, "conditions")}
    return [Rule(name, condition(name), footnote=True) for name in sorted(names - _KNOWN_CONDITIONS)]


def _judge(rule: Rule, a: Side, b: Side, subjects: list[str]) -> bool | None:
    """Whether a condition forbids the comparison: None where it is the same on both sides."""
    theirs, ours = _values(a, rule.read), _values(b, rule.read)
    if len({*theirs, *ours}) < 2:
        return None
    if rule.footnote:
        return False
    steady = len(theirs) == len(ours) == 1
    if steady and not rule.with_subject.isdisjoint(subjects):
        return False
    lacks = UNKNOWN in (*theirs, *ours)
    return not (steady and lacks and not rule.lacking_with.isdisjoint(subjects))


def _clock_ranges(a: Side, b: Side, subjects: list[str]) -> list[tuple[str, bool]]:
    """Compare what the GPU's clock did: ranges that do not meet forbid, unless two devices are compared."""
    ranges = [_clock_range(side) for side in (a, b)]
    if ranges[0] is None or ranges[1] is None:
        return []
    (low_a, high_a), (low_b, high_b) = ranges[0], ranges[1]
    apart = low_a > high_b * (1 + _SAME_CLOCK) or low_b > high_a * (1 + _SAME_CLOCK)
    if not apart and _near(low_a, low_b) and _near(high_a, high_b):
        return []
    words = [f"{low / 1e6:.0f}–{high / 1e6:.0f} MHz" for low, high in ((low_a, high_a), (low_b, high_b))]
    return [(f"clock range: {words[0]} for A, {words[1]} for B", apart and DEVICE not in subjects)]


def _clock_range(side: Side) -> tuple[float, float] | None:
    lows = [row["gpu_clock_min_hz"] for row in side.repeats if row.get("gpu_clock_min_hz")]
    highs = [row["gpu_clock_max_hz"] for row in side.repeats if row.get("gpu_clock_max_hz")]
    return (min(lows), max(highs)) if lows and highs else None


def _near(one: float, other: float) -> bool:
    return max(one, other) <= min(one, other) * (1 + _SAME_RANGE)


def _precision(a: Side, b: Side, subjects: list[str]) -> list[tuple[str, bool]]:
    """Compare the types that layers compute in. A recipe or a model brings its own; elsewhere other types forbid.

    Other counts of the same types are how a runtime fused its layers, and a footnote.
    """
    theirs, ours = (_values(side, _types) for side in (a, b))
    counts = {*_values(a, _counts), *_values(b, _counts)}
    if len(counts) < 2:
        return []
    sentence = _sentence("realised precision", _counts, a, b)
    return [(sentence, {*theirs} != {*ours} and not {MODEL, RECIPE} & {*subjects})]


def _changes(a: Side, b: Side, subjects: list[str]) -> list[str]:
    """Tell what only hashes know: that the device was changed, or that the file is another one."""
    found = []
    if DEVICE not in subjects and _differ(a, b, "snapshot_sha256"):
        found.append("device snapshot: the device, or what is installed on it, changed between the runs")
    if not {MODEL, RECIPE} & {*subjects} and _differ(a, b, "artifact_sha256"):
        found.append("artifact: the same recipe made two different files")
    return found


def _differ(a: Side, b: Side, name: str) -> bool:
    return len({*_values(a, column(name)), *_values(b, column(name))}) > 1


def _counts(row: Row) -> str:
    counts = _mapping(row, "realised_precision")
    return ", ".join(f"{counts[name]} × {name}" for name in sorted(counts) if counts[name])


def _types(row: Row) -> str:
    counts = _mapping(row, "realised_precision")
    return "+".join(name for name in sorted(counts) if counts[name])


def _mapping(row: Row, name: str) -> Mapping[str, Any]:
    """A column that holds a mapping, also as JSON text; empty where it is not there."""
    value = row.get(name) or {}
    found = json.loads(value) if isinstance(value, str) else value
    return found if isinstance(found, Mapping) else {}


def _values(side: Side, read: Callable[[Row], str]) -> list[str]:
    """The different values of a side, in the order they came."""
    return list(dict.fromkeys(read(row) or UNKNOWN for row in side.repeats))


def _sentence(label: str, read: Callable[[Row], str], a: Side, b: Side) -> str:
    return f"{label}: {' and '.join(_values(a, read))} for A, {' and '.join(_values(b, read))} for B"
