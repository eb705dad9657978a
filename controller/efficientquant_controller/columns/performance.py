"""The columns of latency, loading and memory."""

from efficientquant_controller.columns.entry import Cell, Column, Compared, Kind, Origin, Over


def _latency(
    name: str, meaning: str, over: Over = Over.NONE, cell: Cell | None = None, compared: Compared | None = None
) -> Column:
    return Column(name, Kind.DOUBLE, Origin.LATENCIES, meaning, over, cell=cell, compared=compared)


def _stage(
    name: str, meaning: str, over: Over = Over.NONE, cell: Cell | None = None, compared: Compared | None = None
) -> Column:
    return Column(name, Kind.DOUBLE, Origin.STAGES, meaning, over, cell=cell, compared=compared)


def _reading(name: str, meaning: str, kind: Kind = Kind.BIGINT) -> Column:
    return Column(name, kind, Origin.MEASURED, meaning)


# A job's numbers are medians over its repeats, host end to end at batch 1.
LATENCY = (
    Column("latency_count", Kind.INTEGER, Origin.LATENCIES, "inferences measured", Over.SUM),
    _latency("latency_min_s", "the fastest inference"),
    _latency(
        "latency_p50_s", "the median latency, host end to end at batch 1", Over.MEDIAN,
        Cell("latency", "median", "ms"), Compared("latency", "median latency"),
    ),
    Column(
        "latency_p50_min_s", Kind.DOUBLE, Origin.REPEATS, "the lowest of the repeats' medians",
        job_sql="min(runs.latency_p50_s)", cell=Cell("latency", "min–max", "ms", up_to="latency_p50_max_s"),
    ),
    Column(
        "latency_p50_max_s", Kind.DOUBLE, Origin.REPEATS, "the highest of the repeats' medians",
        job_sql="max(runs.latency_p50_s)",
    ),
    _latency(
        "latency_p90_s", "the 90th percentile, linearly interpolated", Over.MEDIAN,
        Cell("latency", "p90", "ms"), Compared("latency-p90", "p90 latency"),
    ),
    _latency("latency_p95_s", "the 95th percentile"),
    _latency(
        "latency_p99_s", "the 99th percentile, linearly interpolated", Over.MEDIAN,
        Cell("latency", "p99", "ms"), Compared("latency-p99", "p99 latency"),
    ),
    _latency("latency_max_s", "the slowest inference"),
    _latency("latency_mean_s", "the mean latency"),
    _latency("latency_standard_deviation_s", "the sample standard deviation (n − 1)"),
    _latency("latency_cov", "the standard deviation divided by the mean"),
    _latency("latency_mad_s", "the median absolute deviation"),
    Column("warmup_count", Kind.INTEGER, Origin.RECORDED, "inferences before measuring"),
    Column(
        "warmup_converged", Kind.BOOLEAN, Origin.REPORTED, "true when the warm-up rule was met before its time limit"
    ),
)  # fmt: skip
LOADING = (
    _stage(
        "transfer_s", "fetching the artifact; a repeat that had it in its cache does not count", Over.MEDIAN,
        Cell("memory", "transfer", "ms", place=2),
    ),
    Column("transfer_bytes", Kind.BIGINT, Origin.STAGES, "how many bytes were fetched"),
    _stage(
        "load_s", "read + session create (with an engine: deserialize + create context) + first inference",
        Over.MEDIAN, Cell("memory", "load", "ms", place=1), Compared("load", "load time", is_load=True),
    ),
    _stage("read_s", "reading the file", Over.MEDIAN),
    _stage("session_create_s", "creating the session", Over.MEDIAN),
    _stage("first_inference_s", "the first inference", Over.MEDIAN),
    _stage("parse_s", "parsing the file, with a runtime that builds an engine"),
    _stage("deserialize_s", "reading the engine"),
    _stage("create_context_s", "creating the engine's execution context"),
    Column(
        "load_cold", Kind.BOOLEAN, Origin.STAGES,
        "true when the file was dropped from the page cache before it was read",
    ),
)  # fmt: skip
MEMORY = (
    Column(
        "peak_rss_bytes", Kind.BIGINT, Origin.MEASURED,
        "the most memory that the process had resident at once (RSS), from before loading until after measuring",
        Over.MEDIAN, cell=Cell("memory", "peak RSS", "MiB", 1, place=3),
        compared=Compared(
            "memory", "the process's peak memory (RSS)", ("smaller", "larger"), explained="the process's peak RSS"
        ),
    ),
    Column(
        "uss_bytes", Kind.BIGINT, Origin.MEASURED,
        "the memory that only this process had (USS): the larger of the readings before and after measuring",
        Over.MEDIAN, cell=Cell("memory", "USS", "MiB", 1, place=4),
        compared=Compared("uss", "the process's private memory (USS)", ("smaller", "larger")),
    ),
    Column(
        "peak_pss_bytes", Kind.BIGINT, Origin.PEAK,
        "the highest proportional set size (PSS) of the process, which falls when other processes share its libraries",
        Over.MEDIAN, cell=Cell("memory", "peak PSS", "MiB", 1, place=5),
        compared=Compared("pss", "the process's peak PSS", ("smaller", "larger")),
    ),
    _reading("board_available_before_bytes", "the board's available memory before loading"),
    Column("board_available_min_bytes", Kind.BIGINT, Origin.PEAK, "the board's available memory at its lowest"),
    Column(
        "board_memory_delta_bytes", Kind.BIGINT, Origin.RECORDED,
        "how far the board's available memory fell below what it was before loading; 0 where it never did",
        Over.MEDIAN, cell=Cell("memory", "board Δ", "MiB", 1, place=6),
        # `paper_memory_kind` tells GPUs with their own memory from GPUs that share the board's. The two kinds differ
        # in what the board's memory includes, and NVML counts a process's GPU memory on the first, nvmap on the second.
        compared=Compared(
            "board-memory", "the board's memory", ("smaller", "larger"), definition="paper_memory_kind"
        ),
    ),
    _reading("swap_used_before_bytes", "swap in use before loading"),
    Column("swap_used_max_bytes", Kind.BIGINT, Origin.PEAK, "swap in use at its highest"),
    Column("swap_delta_bytes", Kind.BIGINT, Origin.RECORDED, "how far swap in use rose; 0 where it never did"),
    _reading("device_memory_bytes", "the GPU memory that loading used, as the runtime reported it"),
    _reading("sampler_cpu_s", "the CPU time of the sampler during the run", Kind.DOUBLE),
    Column("sampler_core_share", Kind.DOUBLE, Origin.RECORDED, "that time as a share of one core over the run"),
    _reading("sampler_wakeups", "how often the sampler woke", Kind.INTEGER),
    Column(
        "other_readings", Kind.JSON, Origin.RECORDED,
        "readings without a column, or too large for it, by name",
    ),
)  # fmt: skip
