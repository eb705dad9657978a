"""The columns that compare a variant with its fp32 twin.

The twin is the fp32 job of the same campaign, device and model.
"""

from efficientquant_controller.columns.entry import Column, Kind, Origin


def _answered(prefix: str, meaning: str, answers: str) -> tuple[Column, ...]:
    """Make the four columns of one answer."""
    return (
        Column(f"{prefix}_ratio", Kind.DOUBLE, Origin.GUARD, meaning),
        Column(
            f"{prefix}_ratio_low", Kind.DOUBLE, Origin.GUARD,
            "the ratio's lower limit, 90 % confident; NULL with too few repeats",
        ),
        Column(
            f"{prefix}_ratio_high", Kind.DOUBLE, Origin.GUARD,
            "the ratio's upper limit, 90 % confident; NULL with too few repeats",
        ),
        Column(
            f"{prefix}_answer", Kind.STRING, Origin.GUARD,
            f"{answers}, `same`, `not enough data` or `not comparable`; empty where nothing was compared yet",
        ),
    )  # fmt: skip


COMPARISONS = (
    Column("fp32_job_id", Kind.STRING, Origin.PAIR, "the job of the fp32 twin"),
    Column("fp32_runs_done", Kind.INTEGER, Origin.PAIR, "repeats of the twin that succeeded"),
    Column("size_ratio", Kind.DOUBLE, Origin.SIZE, "how many times smaller the artifact is"),
    *_answered("latency", "how many times faster the median inference is", "`faster`, `slower`"),
    Column(
        "latency_ratio_min", Kind.DOUBLE, Origin.PAIR,
        "the twin's fastest repeat divided by the variant's slowest one, INVALID repeats included",
    ),
    Column(
        "latency_ratio_max", Kind.DOUBLE, Origin.PAIR,
        "the twin's slowest repeat divided by the variant's fastest one, INVALID repeats included",
    ),
    *_answered("load", "how many times faster it loads", "`faster`, `slower`"),
    *_answered("peak_rss", "how many times less memory its process uses at its peak (RSS)", "`smaller`, `larger`"),
    *_answered("energy", "how many times less energy an inference takes", "`less`, `more`"),
    *_answered("peak_pss", "how many times lower the process's peak PSS is", "`smaller`, `larger`"),
    Column(
        "not_compared", Kind.TEXT, Origin.GUARD,
        "why an answer is `not comparable`, e.g. `clocks: locked for fp32, not locked for int8`; else empty",
    ),
    Column("comparison_notes", Kind.JSON, Origin.GUARD, "differences that do not forbid the comparison, as sentences"),
    Column(
        "integer_operators", Kind.INTEGER, Origin.CHECK,
        "convolutions, linears and matrix products that the runtime computes in integers, by the check of the artifact "
        "when it was built; null without one",
    ),
    Column("float_operators", Kind.INTEGER, Origin.CHECK, "such operators that it computes in floats"),
    Column(
        "arithmetic", Kind.TEXT, Origin.CHECK,
        "the sentence of that check and its runtime, which may differ from the device's",
    ),
)  # fmt: skip
