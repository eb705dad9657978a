"""The comparability guard: rules that forbid or annotate a comparison.

`results`, `bench`, `compare` and the view `comparisons` all use it. docs/comparing.md shows its table of rules.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from efficientquant_controller.analysis import readings
from efficientquant_controller.analysis.comparison import MIN_EFFECT
from efficientquant_controller.analysis.metrics import FIRST, SECOND, Metric, Side
from efficientquant_controller.analysis.readings import Read, column, condition
from efficientquant_controller.analysis.verdict import CLOCK_TOLERANCE

# Increment it when a pair gets another answer than before, so that stored comparisons are computed again.
RULES_VERSION = 2
MODEL, RECIPE, DEVICE, RUNTIME = "model", "recipe", "device", "runtime"
UNKNOWN = "not recorded"
_Range = tuple[float, float]  # the lowest and the highest clock in hertz


@dataclass(frozen=True)
class Differences:
    """Sentences that name differences, as refusals and footnotes."""

    refusals: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """A difference as a sentence.

    It is a footnote unless it `forbids` the comparison.
    """

    sentence: str
    forbids: bool


@dataclass(frozen=True)
class Pair:
    """Two jobs, the subjects they differ in, and the least effect.

    The possible subjects are model, recipe, device and runtime. Smaller effects do not count.
    """

    a: Side
    b: Side
    subjects: frozenset[str]
    min_effect: float

    @property
    def labels(self) -> tuple[str, str]:
        """The names of the two sides in sentences."""
        return self.a.label or FIRST, self.b.label or SECOND

    def values(self, read: Read) -> tuple[list[str], list[str]]:
        """Return each side's distinct values in order of appearance."""
        return _values(self.a, read), _values(self.b, read)

    def differ(self, read: Read) -> bool:
        """Tell whether any two repeats of the pair have different values."""
        theirs, ours = self.values(read)
        return len({*theirs, *ours}) > 1

    def sentence(self, label: str, read: Read) -> str:
        """Return a sentence with both sides' values."""
        theirs, ours = self.values(read)
        return self.named(label, " and ".join(theirs), " and ".join(ours))

    def named(self, label: str, theirs: str, ours: str) -> str:
        """Return a sentence with a value of a condition for each side."""
        return f"{label}: {theirs} for {self.labels[0]}, {ours} for {self.labels[1]}"


@dataclass(frozen=True)
class Rule:
    """A condition that must agree in all repeats of both jobs.

    - `comes_with`: subjects that bring other values along, so that a difference is a footnote.
    - `lacking_with`: subjects under which a value that one side lacks is a footnote.
    - `decisive`: a coarser reading. Only a difference in it forbids.
    - `footnote`: the rule never forbids.
    - `of`: "load", "energy" or "memory", for the metrics that the condition defines. Empty for every metric.
    - `silent_with` and `unless_named`: subjects, and rules with a difference, that silence this rule.
    - `words`: used in place of values that are hashes.
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
        """Return the difference, or None when all values are the same."""
        if not pair.differ(self.read):
            return None
        sentence = f"{self.label}: {self.words}" if self.words else pair.sentence(self.label, self.read)
        return Difference(sentence, not self.footnote and self._forbids(pair))

    def _forbids(self, pair: Pair) -> bool:
        decisive = self.decisive or self.read
        if not pair.differ(decisive):
            return False
        theirs, ours = pair.values(decisive)
        if len(theirs) > 1 or len(ours) > 1:  # a change within a job, which no subject brings along
            return True
        if self.comes_with & pair.subjects:
            return False
        return not (self.lacking_with & pair.subjects and UNKNOWN in (*theirs, *ours))


@dataclass(frozen=True)
class ClockRange(Rule):
    """The range of the GPU's clock while measuring.

    Ranges that do not meet forbid the comparison.
    """

    def judge(self, pair: Pair) -> Difference | None:
        """Return the difference, or None when there is none.

        There is none when both ends of all ranges are within the least effect, or no range was recorded.
        """
        sides = [_merged(_clock_ranges(side)) for side in (pair.a, pair.b)]
        if not any(sides):
            return None
        words = [" and ".join(map(_megahertz, side)) or UNKNOWN for side in sides]
        sentence = pair.named(self.label, *words)
        if not all(sides):  # most runtimes use no GPU, and not every board reports its clock
            return Difference(sentence, forbids=False)
        if len(sides[0]) > 1 or len(sides[1]) > 1:
            return Difference(sentence, forbids=True)
        if len(_merged([*sides[0], *sides[1]])) > 1:
            return Difference(sentence, forbids=not self.comes_with & pair.subjects)
        (low_a, high_a), (low_b, high_b) = sides[0][0], sides[1][0]
        is_near = _near(low_a, low_b, pair.min_effect) and _near(high_a, high_b, pair.min_effect)
        return None if is_near else Difference(sentence, forbids=False)


# For each subject, the reading that distinguishes and the reading that names it.
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
    # These define a metric. No subject brings another definition along.
    Rule("rail set", readings.rail_set, of="energy"),
    Rule("what memory means", column("paper_memory_kind"), of="memory"),
    Rule("the artifact before loading", readings.page_cache, of="load"),
    # These need not change a number.
    Rule("runtime version", column("runtime_version"), footnote=True),
    Rule("NVIDIA driver", readings.driver, footnote=True),
    Rule("CUDA", column("cuda_version"), footnote=True),
    Rule("library of streams and buffers", readings.cuda_library, footnote=True, silent_with=_OF_RUNTIME),
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


def guard(a: Side, b: Side, metric: Metric, min_effect: float = MIN_EFFECT) -> Differences:
    """Return every difference between two jobs that matters for a metric.

    The ends of two clock ranges are the same when they differ by less than `min_effect`.
    """
    pair = Pair(a, b, frozenset(subjects_of(a, b)), min_effect)
    refusals = _unlike_subjects(pair)
    footnotes: list[str] = []
    for _, difference in _differences(pair, metric):
        (refusals if difference.forbids else footnotes).append(difference.sentence)
    return Differences(tuple(refusals), tuple(footnotes))


def is_same_job(a: Side, b: Side, metric: Metric) -> bool:
    """Tell whether two sides are one job, measured again.

    It has the same variant, device and conditions. Only the range of a free clock may move.
    """
    pair = Pair(a, b, frozenset(subjects_of(a, b)), MIN_EFFECT)
    differences = _differences(pair, metric)
    return not pair.subjects and all(
        isinstance(rule, ClockRange) and not difference.forbids for rule, difference in differences
    )


def _differences(pair: Pair, metric: Metric) -> Iterator[tuple[Rule, Difference]]:
    """Yield each rule that finds a difference, with the difference."""
    named: set[str] = set()
    for rule in (*RULES, *_other_conditions(pair)):
        if rule.silent_with & pair.subjects or rule.unless_named & named or not _applies(rule, metric):
            continue
        if (difference := rule.judge(pair)) is not None:
            named.add(rule.label)
            yield rule, difference


def subjects_of(a: Side, b: Side) -> list[str]:
    """Return the subjects that the two sides differ in.

    The subjects are model, recipe, device and runtime.
    """
    return [name for name, (key, _) in SUBJECTS.items() if len({*_values(a, key), *_values(b, key)}) > 1]


def _unlike_subjects(pair: Pair) -> list[str]:
    """Return the refusals that concern the subjects of a pair.

    They are for a job compared with itself, more than one subject, and a subject that changed within a job.
    """
    if pair.a.job_id and pair.a.job_id == pair.b.job_id:
        return [f"both are job {pair.a.job_id}"]
    sentences = [_named_subject(pair, name) for name in SUBJECTS if name in pair.subjects]
    if len(sentences) > 1:
        return [f"{len(sentences)} things differ where one is compared: {'; '.join(sentences)}"]
    keys = [SUBJECTS[name][0] for name in pair.subjects]
    return [
        f"{sentences[0]}, which changed within a job"
        for key in keys
        if any(len(values) > 1 for values in pair.values(key))
    ]


def _named_subject(pair: Pair, name: str) -> str:
    """Return a sentence with a subject's values on both sides.

    Two devices with the same name are named by their ids.
    """
    key, read = SUBJECTS[name]
    return pair.sentence(name, read if pair.differ(read) else key)


def _applies(rule: Rule, metric: Metric) -> bool:
    return {"load": metric.is_load, "energy": metric.is_energy, "memory": bool(metric.definition)}.get(rule.of, True)


def _other_conditions(pair: Pair) -> list[Rule]:
    """Return a footnote rule for each condition without its own rule."""
    rows = [row for side in (pair.a, pair.b) for row in side.repeats]
    names = {name for row in rows for name in readings.mapping(row, "conditions")}
    return [Rule(name, condition(name), footnote=True) for name in sorted(names - readings.KNOWN_CONDITIONS)]


def _clock_ranges(side: Side) -> list[_Range]:
    ends = [(row.get("gpu_clock_min_hz"), row.get("gpu_clock_max_hz")) for row in side.repeats]
    return [(low, high) for low, high in ends if low and high]


def _merged(ranges: Sequence[_Range]) -> list[_Range]:
    """Merge ranges that meet, in ascending order."""
    merged: list[_Range] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] * (1 + CLOCK_TOLERANCE):
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return merged


def _megahertz(ends: _Range) -> str:
    return f"{ends[0] / 1e6:.0f}–{ends[1] / 1e6:.0f} MHz"


def _near(a: float, b: float, share: float) -> bool:
    return max(a, b) <= min(a, b) * (1 + share)


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
