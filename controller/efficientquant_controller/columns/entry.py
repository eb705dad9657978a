"""The fields of an entry of the registry."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The SQL type of a column."""

    STRING = "string"  # a name
    TEXT = "text"
    INTEGER = "integer"
    BIGINT = "bigint"
    DOUBLE = "double"
    BOOLEAN = "boolean"
    JSON = "json"

    @property
    def whole(self) -> bool:
        """Whether the values are numbers without a fraction."""
        return self in (Kind.INTEGER, Kind.BIGINT)


class Origin(StrEnum):
    """The source of a column's value."""

    # In the table `runs`, written with a report; `store/run_records.py` has one source for each of these.
    REPORTED = "reported"  # a field of RunResult
    RECORDED = "recorded"  # made from such fields when the report is committed
    MEASURED = "measured"  # a single reading of RunResult.measured
    PEAK = "peak"  # the extreme of a series that is sent anyway; see analysis/telemetry.py
    LATENCIES = "latencies"  # a summary of the latencies
    STAGES = "stages"  # the stages of loading
    OUTPUTS = "outputs"  # how far the outputs are from the reference outputs
    ENGINE = "engine"  # the engine that the device built
    DERIVED = "derived"  # computed by analysis/derived.py
    # In other tables.
    JOB = "job"  # the job with its campaign, device and artifact
    RUN = "run"  # the planned half of a run
    SNAPSHOT = "snapshot"  # the device as it was during the run
    REPEATS = "repeats"  # exists only over the repeats of a job
    # Compared with the fp32 job of the same campaign, device and model.
    PAIR = "pair"  # facts of the two jobs
    SIZE = "size"  # the sizes of the two files
    GUARD = "guard"  # the answer of the comparability guard, stored in `job_comparisons`
    CHECK = "check"  # the counts of the artifact's check

    @property
    def stored(self) -> bool:
        """Whether a report writes the column into the table `runs`."""
        return self in _STORED


_STORED = frozenset(list(Origin)[: list(Origin).index(Origin.JOB)])


class Over(StrEnum):
    """The aggregate of a job's succeeded repeats in the view `results`."""

    NONE = ""
    MEDIAN = "median"
    MIN = "lowest"
    MAX = "highest"
    SUM = "sum"
    MEAN = "mean"
    LAST = "last"
    LAST_REPORTED = "last, of failed repeats too where none succeeded"
    WORST = "of the worst verdict"


@dataclass(frozen=True)
class Cell:
    """The place of a column in the tables of `results`.

    `up_to` names the column that ends the range that this column begins. Cells are in the order of the registry, those
    with a `place` first.
    """

    group: str
    heading: str
    unit: str = ""
    digits: int = 2
    place: int = 99
    up_to: str = ""


@dataclass(frozen=True)
class Compared:
    """The metric that `compare --metric NAME` makes of a column.

    Less is better. `words` are the answers for a better and a worse second job, as in "the second `verb` 2× less than
    the first". `definition` names the column that says what was measured. `explained` is added to the name in the help.
    """

    metric: str
    label: str
    words: tuple[str, str] = ("faster", "slower")
    verb: str = "is"
    definition: str = ""
    explained: str = ""
    is_load: bool = False
    is_energy: bool = False


# The end of a name is its unit. The first match counts, so longer ends come first.
UNITS = {
    "_unix_s": "s since 1970",
    "_s": "s",
    "_bytes": "B",
    "_hz": "Hz",
    "_j": "J",
    "_w": "W",
    "_c": "°C",
}
# Units for people, with the SI unit and the factor that each is made with.
SHOWN = {
    "ms": ("s", 1e3),
    "MiB": ("B", 2.0**-20),
    "mJ": ("J", 1e3),
    "W": ("W", 1.0),
    "°C": ("°C", 1.0),
}


@dataclass(frozen=True)
class Column:
    """One column of the views, whose name ends in its unit.

    `meaning` describes the column in docs/database.md. `job_sql` and `run_sql` are its expressions in the views
    `results` and `run_results`, where those do not follow from `over` and `origin`.
    """

    name: str
    kind: Kind
    origin: Origin
    meaning: str
    over: Over = Over.NONE
    job_sql: str = ""
    run_sql: str = ""
    cell: Cell | None = None
    compared: Compared | None = None

    @property
    def exported(self) -> str:
        """The name in JSON and CSV, where times are in UTC."""
        return f"{self.name.removesuffix('_unix_s')}_utc" if self.name.endswith("_unix_s") else self.name

    @property
    def unit(self) -> str:
        """The unit that the name ends in, or an empty text."""
        if self.kind in (Kind.STRING, Kind.TEXT, Kind.JSON, Kind.BOOLEAN):
            return ""
        return next((unit for end, unit in UNITS.items() if self.name.endswith(end)), "")
