"""The comparability guard: one table of rules that says what forbids a comparison and what is a note below it.

`results`, `bench`, `compare` and the view `comparisons` all ask it; docs/comparing.md shows the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from efficientquant_controller.analysis import readings
from efficientquant_controller.analysis.comparison import MIN_EFFECT
from efficientquant_controller.analysis.metrics import Metric, Side
from efficientquant_controller.analysis.readings import Read, column, condition
from efficientquant_controller.analysis.verdict import CLOCK_TOLERANCE

# Raise it when a pair gets another answer than before: stored comparisons are then computed again.
RULES_VERSION = 1
MODEL, RECIPE, DEVICE, RUNTIME = "model", "recipe", "device", "runtime"
UNKNOWN = "not recorded"
_Range = tuple[float, float]  # the lowest and the highest clock in hertz


@dataclass(frozen=True)
class Found:
    """Sentences that name differences."""

    refusals: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """One difference as a sentence; a footnote unless it `forbids`."""

    sentence: str
    forbids: bool


@dataclass(frozen=True)
class Pair:
    """Two jobs, what they differ in of model, recipe, device and runtime, and the least effect that counts."""

    a: Side
    b: Side
    subjects: frozenset[str]
    min_effect: float

    @property
    def labels(self) -> tuple[str, str]:
        """Return what sentences call the two sides."""
        return self.a.label or "A", self.b.label or "B"

    def values(self, read: Read) -> tuple[list[str], list[str]]:
        """Return each side's different values, in the order they came."""
        return _values(self.a, read), _values(self.b, read)

    def differ(self, read: Read) -> bool:
        """Return whether any two repeats of the pair have different values."""
        theirs, ours = self.values(read)
        return len({*theirs, *ours}) > 1

    def sentence(self, label: str, read: Read) -> str:
        """Name both sides' values."""
        theirs, ours = self.values(read)
        return self.named(label, " and ".join(theirs), " and ".join(ours))

    def named(self, label: str, theirs: str, ours: str) -> str:
        """Name two values of a condition."""
        return f"{label}: {theirs} for {self.labels[0]}, {ours} for {self.labels[1]}"


@dataclass(frozen=True)
class Rule:
    """What must be the same in all repeats of both jobs, and when a difference is only a footnote.

    - `comes_with`: subjects that bring other values along, as a footnote.
    - `lacking_with`: subjects under which a value that one side does not have is a footnote.
    - `decisive`: a coarser reading; only a difference in it forbids.
    - `footnote`: nothing forbids.
    - `of`: "load", "energy" or "memory", for the metrics that this defines; empty for every metric.
    - `silent_with` and `unless_named`: subjects, and rules that found something, which leave nothing to say.
    - `words`: said in place of values that are hashes.
    """

    label: str
    read: Read
    comes_with: frozenset[str] = frozenset()
    lacking_with: frozenset[str] = frozenset()
    decisive: Read | None = None
    footnote: bool = False
    of: str = ""
    silent_with: frozenset[str] = frozenset()
    unless_named: frozenset[str] = frozenset()
    words: str = ""

    def judge(self, pair: Pair) -> Difference | None:
        """Return the difference; None where all values are the same."""
        if not pair.differ(self.read):
            return None
        sentence = f"{self.label}: {self.words}" if self.words else pair.sentence(self.label, self.read)
        return Difference(sentence, not self.footnote and self._forbids(pair))

    def _forbids(self, pair: Pair) -> bool:
        decisive = self.decisive or self.read
        if not pair.differ(decisive):
            return False
        theirs, ours = pair.values(decisive)
        if len(theirs) > 1 or len(ours) > 1:  # it changed within a job, and no subject brings that along
            return True
        if self.comes_with & pair.subjects:
            return False
        return not (self.lacking_with & pair.subjects and UNKNOWN in (*theirs, *ours))


@dataclass(frozen=True)
class ClockRange(Rule):
    """The range of the GPU's clock while measuring: ranges that do not meet forbid."""

    def judge(self, pair: Pair) -> Difference | None:
        """Return the difference; None where both ends of all ranges are within the least effect."""
        sides = [_merged(_clock_ranges(side)) for side in (pair.a, pair.b)]
        if not any(sides):
            return None
        words = [" and ".join(map(_megahertz, side)) or UNKNOWN for side in sides]
        sentence = pair.named(self.label, *words)
        if not all(sides):  # most runtimes use no GPU, and not every board tells its clock
            return Difference(sentence, forbids=False)
        if len(sides[0]) > 1 or len(sides[1]) > 1:
            return Difference(sentence, forbids=True)
        if len(_merged([*sides[0], *sides[1]])) > 1:
            return Difference(sentence, forbids=not self.comes_with & pair.subjects)
        (low_a, high_a), (low_b, high_b) = sides[0][0], sides[1][0]
        is_near = _near(low_a, low_b, pair.min_effect) and _near(high_a, high_b, pair.min_effect)
        return None if is_near else Difference(sentence, forbids=False)


# How two are told apart, and how one is named.
SUBJECTS: Mapping[str, tuple[Read, Read]] = {
    MODEL: (column("model"), column("model")),
    RECIPE: (column("recipe"), column("recipe")),
    DEVICE: (readings.device_key, readings.device),
    RUNTIME: (readings.runtime, readings.runtime),
}
_OF_DEVICE, _OF_RUNTIME = frozenset({DEVICE}), frozenset({RUNTIME})
_OF_VARIANT = frozenset({MODEL, RECIPE})
RULES: tuple[Rule, ...] = (
    Rule("tier", column("tier")),
    Rule("weights", readings.weights),
    Rule("timing mode", condition("timing_mode"), lacking_with=_OF_RUNTIME),
    Rule("sync mode", condition("sync_mode"), lacking_with=_OF_RUNTIME),
    Rule("CUDA graph", readings.cuda_graph, lacking_with=_OF_RUNTIME),
    Rule("transfers", readings.transfers),
    Rule("kind of buffers", condition("memory_kind"), comes_with=_OF_DEVICE | _OF_RUNTIME),
    Rule("power mode", condition("power_mode"), comes_with=_OF_DEVICE),
    Rule("clocks", readings.locked),
    Rule("GPU clock", readings.clock_target("gpu"), comes_with=_OF_DEVICE),
    Rule("memory clock", readings.clock_target("emc"), comes_with=_OF_DEVICE),
    Rule("CPU clock", readings.clock_target("cpu"), comes_with=_OF_DEVICE),
    ClockRange("clock range", column("gpu_clock_max_hz"), comes_with=_OF_DEVICE),
    Rule("threads", condition("intra_op_threads"), lacking_with=_OF_RUNTIME),
    Rule("CPUs of the measuring thread", condition("measuring_thread_cpus"), comes_with=_OF_DEVICE),
    Rule("session options", readings.other_options, comes_with=_OF_RUNTIME),
    Rule("target of the artifact", column("target"), comes_with=_OF_DEVICE | _OF_RUNTIME),
    Rule(
        "realised precision",
        readings.layer_counts,
        comes_with=_OF_VARIANT | _OF_RUNTIME,
        decisive=readings.layer_types,
    ),
    # What defines a metric; no subject brings another definition along.
    Rule("rail set", readings.rail_set, of="energy"),
    Rule("what memory means", column("paper_memory_kind"), of="memory"),
    Rule("the artifact before loading", readings.page_cache, of="load"),
    # What need not change a number.
    Rule("runtime version", column("runtime_version"), footnote=True),
    Rule("NVIDIA driver", readings.driver, footnote=True),
    Rule("CUDA", column("cuda_version"), footnote=True),
    Rule("L4T", column("l4t"), footnote=True),
    Rule("kernel", column("kernel"), footnote=True, silent_with=_OF_DEVICE),
    Rule("operating system", column("os"), footnote=True, silent_with=_OF_DEVICE),
    Rule("agent version", column("agent_version"), footnote=True),
    Rule("statistics version", column("statistics_version"), footnote=True),
    Rule("state of the clocks", condition("clocks"), footnote=True, unless_named=frozenset({"clocks"})),
    Rule(
        "device snapshot",
        column("snapshot_sha256"),
        footnote=True,
        silent_with=_OF_DEVICE,
        unless_named=frozenset(
            {"power mode", "runtime version", "NVIDIA driver", "CUDA", "L4T", "kernel", "operating system"}
        ),
        words="the device, or what is installed on it, changed between the runs",
    ),
    Rule(
        "artifact",
        column("artifact_sha256"),
        footnote=True,
        silent_with=_OF_VARIANT,
        unless_named=frozenset({"target of the artifact"}),
        words="the same recipe made two different files",
    ),
)


def guard(a: Side, b: Side, metric: Metric, min_effect: float = MIN_EFFECT) -> Found:
    """Name every difference between two jobs that bears on a metric.

    `min_effect` is the comparison's: ends of a clock range that moved by less are the same.
    """
    pair = Pair(a, b, frozenset(subjects_of(a, b)), min_effect)
    refusals = _unlike_subjects(pair)
    footnotes: list[str] = []
    named: set[str] = set()
    for rule in (*RULES, *_other_conditions(pair)):
        if rule.silent_with & pair.subjects or rule.unless_named & named or not _applies(rule, metric):
            continue
        if (difference := rule.judge(pair)) is not None:
            named.add(rule.label)
            (refusals if difference.forbids else footnotes).append(difference.sentence)
    return Found(tuple(refusals), tuple(footnotes))


def subjects_of(a: Side, b: Side) -> list[str]:
    """Return which of model, recipe, device and runtime the two sides differ in."""
    return [name for name, (key, _) in SUBJECTS.items() if len({*_values(a, key), *_values(b, key)}) > 1]


def _unlike_subjects(pair: Pair) -> list[str]:
    """Refuse one job beside itself, more than one subject, and a subject that changed within a job."""
    if pair.a.job_id and pair.a.job_id == pair.b.job_id:
        return [f"both are job {pair.a.job_id}"]
    told = [_named_subject(pair, name) for name in SUBJECTS if name in pair.subjects]
    if len(told) > 1:
        return [f"{len(told)} things differ where one is compared: {'; '.join(told)}"]
    keys = [SUBJECTS[name][0] for name in pair.subjects]
    return [f"{told[0]}, which changed within a job" for key in keys if any(len(one) > 1 for one in pair.values(key))]


def _named_subject(pair: Pair, name: str) -> str:
    """Name both sides of a subject; by ids where two devices had one name."""
    key, read = SUBJECTS[name]
    return pair.sentence(name, read if pair.differ(read) else key)


def _applies(rule: Rule, metric: Metric) -> bool:
    return {"load": metric.is_load, "energy": metric.is_energy, "memory": bool(metric.definition)}.get(rule.of, True)


def _other_conditions(pair: Pair) -> list[Rule]:
    """Return a footnote rule for each condition that has none of its own."""
    rows = [row for side in (pair.a, pair.b) for row in side.repeats]
    names = {name for row in rows for name in readings.mapping(row, "conditions")}
    return [Rule(name, condition(name), footnote=True) for name in sorted(names - readings.KNOWN_CONDITIONS)]


def _clock_ranges(side: Side) -> list[_Range]:
    ends = [(row.get("gpu_clock_min_hz"), row.get("gpu_clock_max_hz")) for row in side.repeats]
    return [(low, high) for low, high in ends if low and high]


def _merged(ranges: Sequence[_Range]) -> list[_Range]:
    """Put ranges together that meet, ascending."""
    found: list[_Range] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] * (1 + CLOCK_TOLERANCE):
            found[-1] = found[-1][0], max(found[-1][1], high)
        else:
            found.append((low, high))
    return found


def _megahertz(ends: _Range) -> str:
    return f"{ends[0] / 1e6:.0f}–{ends[1] / 1e6:.0f} MHz"


def _near(one: float, other: float, share: float) -> bool:
    return max(one, other) <= min(one, other) * (1 + share)


def _values(side: Side, read: Read) -> list[str]:
    return list(dict.fromkeys(read(row) or UNKNOWN for row in side.repeats))


_PLURALS = {MODEL: "models", RECIPE: "recipes", DEVICE: "devices", RUNTIME: "runtimes"}
_METRICS = {"load": "load times", "energy": "energy and power", "memory": "memory of a board or a GPU"}


def rules_table() -> str:
    """Return RULES as the Markdown table of docs/comparing.md."""
    rows = [(rule.label, _when_it_forbids(rule), _when_it_is_a_note(rule)) for rule in RULES]
    rows.append(("any other condition", "", "always"))
    lines = ["| condition | forbids | is a note |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _when_it_forbids(rule: Rule) -> str:
    if rule.footnote:
        return ""
    what = "where the ranges do not meet" if isinstance(rule, ClockRange) else ""
    what = "other types" if rule.decisive else what
    of = f"for {_METRICS[rule.of]}" if rule.of else ""
    unless = f"unless {_listed(rule.comes_with)} are compared" if rule.comes_with else ""
    return ", ".join(part for part in (what, of, unless) if part) or "always"


def _when_it_is_a_note(rule: Rule) -> str:
    if rule.footnote:
        return f"unless {_listed(rule.silent_with)} are compared" if rule.silent_with else "always"
    notes = []
    if isinstance(rule, ClockRange):
        notes.append("an end that moved by more than the least effect")
    if rule.decisive:
        notes.append("other counts of the same types")
    if rule.comes_with:
        notes.append(f"where {_listed(rule.comes_with)} are compared")
    if rule.lacking_with:
        notes.append(f"a setting that one side lacks, where {_listed(rule.lacking_with)} are compared")
    return "; ".join(notes)


def _listed(subjects: frozenset[str]) -> str:
    words = [plural for name, plural in _PLURALS.items() if name in subjects]
    return " or ".join([*filter(None, [", ".join(words[:-1])]), words[-1]])
