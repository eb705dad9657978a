"""The columns of verdicts, energy, outputs and the paper's numbers."""

from efficientquant_controller.columns.entry import Cell, Column, Compared, Kind, Origin, Over


def _derived(
    name: str,
    meaning: str,
    over: Over = Over.NONE,
    cell: Cell | None = None,
    compared: Compared | None = None,
    kind: Kind = Kind.DOUBLE,
) -> Column:
    return Column(name, kind, Origin.DERIVED, meaning, over, cell=cell, compared=compared)


def _energy(metric: str, label: str) -> Compared:
    return Compared(metric, label, ("less", "more"), "takes", is_energy=True)


# What contention for the CPU is judged by; `judge` in analysis/verdict.py reads them.
CONTENTION = (
    Column(
        "cpu_wait_share", Kind.DOUBLE, Origin.MEASURED,
        "the share of the measure window in which the thread that waited longest could have run and had no CPU",
        Over.MAX,
    ),
    Column(
        "other_cpu_share", Kind.DOUBLE, Origin.MEASURED,
        "the share of all CPU time that other processes took in that window; only where the kernel counts no waiting",
        Over.MAX,
    ),
)  # fmt: skip
VERDICT = (
    _derived(
        "verdict", "`A`, `B` or `INVALID`; empty before a repeat has succeeded, and for releases without verdicts",
        Over.WORST, kind=Kind.STRING,
    ),
    _derived(
        "verdict_reasons", "the sentences that led to the verdict, then what could not be checked (`not checked: …`)",
        Over.WORST, kind=Kind.JSON,
    ),
    _derived("statistics_version", "the version of the rules that gave the verdict", kind=Kind.INTEGER),
    Column("findings", Kind.JSON, Origin.RECORDED, "what the agent noticed; see [below](#conditions-and-findings)"),
    _derived(
        "latency_p90_bound_s", "an upper bound of the true p90, at 99 % confidence; NULL with too few samples",
        Over.MEDIAN,
    ),
    _derived(
        "latency_p99_bound_s", "an upper bound of the true p99, at 99 % confidence; NULL with too few samples",
        Over.MEDIAN,
    ),
    _derived("latency_drift", "the last third's median divided by the first third's, minus 1"),
    Column(
        "device_latency_p50_s", Kind.DOUBLE, Origin.LATENCIES,
        "the median by the device's own clock (CUDA events); NULL where it has none", Over.MEDIAN,
        compared=Compared("device-latency", "median device time"),
    ),
    Column(
        "device_latency_p99_s", Kind.DOUBLE, Origin.LATENCIES, "the 99th percentile by the device's own clock"
    ),
)  # fmt: skip
POWER = (
    _derived(
        "energy_per_inference_j", "the energy of the measuring window divided by its inferences", Over.MEDIAN,
        Cell("energy", "energy", "mJ"), _energy("energy", "energy for each inference"),
    ),
    _derived(
        "net_energy_per_inference_j", "that energy minus the energy at rest; it may be below 0", Over.MEDIAN,
        Cell("energy", "net of idle", "mJ"), _energy("net-energy", "energy for each inference beyond idling"),
    ),
    _derived(
        "mean_power_w", "mean power while measuring", Over.MEDIAN,
        Cell("energy", "power", "W"), _energy("power", "mean power"),
    ),
    _derived("idle_power_w", "mean power at rest, before and after measuring", Over.MEDIAN),
    _derived(
        "rail_set",
        "the power rails that were measured, e.g. `POM_5V_IN` or `GPU+CPU+SOC+CV+VDDRQ+SYS5V`: energies of "
        "different sets are not compared",
        Over.LAST, kind=Kind.STRING,
    ),
    _derived(
        "max_temperature_c", "the hottest GPU, CPU or junction reading while measuring", Over.MAX,
        Cell("energy", "hottest", "°C", 1),
    ),
    _derived("gpu_clock_min_hz", "the lowest reading of the GPU's clock while measuring", Over.MIN),
    _derived("gpu_clock_max_hz", "the highest reading of the GPU's clock while measuring", Over.MAX),
    _derived(
        "throttled",
        "true when the device was throttled, by its own report, its temperature or a locked clock that fell; NULL "
        "when none of these was read",
        kind=Kind.BOOLEAN,
    ),
)  # fmt: skip
PAPER = (
    Column(
        "paper_load_s", Kind.DOUBLE, Origin.STAGES,
        "read + deserialize + create context (without an engine: read + session create)", Over.MEAN,
        cell=Cell("paper", "paper load", "ms", place=2),
        compared=Compared("paper-load", "the paper's load time", is_load=True),
    ),
    _derived(
        "paper_memory_bytes", "mean used memory while measuring", Over.MEAN,
        Cell("paper", "paper memory", "MiB", 0, place=3),
        Compared("paper-memory", "the paper's memory", ("smaller", "larger"), definition="paper_memory_kind"),
        Kind.BIGINT,
    ),
    _derived(
        "paper_memory_kind",
        "what `paper_memory_bytes` counts: `board used RAM` or `device used memory`, never compared with each other",
        Over.LAST, Cell("paper", "memory of"), kind=Kind.STRING,
    ),
    _derived(
        "gpu_process_peak_bytes", "the most memory of the GPU that the process held, as NVML or nvmap counts it",
        Over.MEDIAN,
        compared=Compared(
            "gpu-memory", "the process's GPU memory", ("smaller", "larger"), definition="paper_memory_kind"
        ),
        kind=Kind.BIGINT,
    ),
)  # fmt: skip
OUTPUTS = (
    Column(
        "output_max_abs", Kind.DOUBLE, Origin.OUTPUTS, "the largest difference from the reference outputs", Over.MAX
    ),
    Column("output_cosine", Kind.DOUBLE, Origin.OUTPUTS, "the cosine with the reference outputs", Over.MIN),
    Column(
        "output_argmax_agreement", Kind.DOUBLE, Origin.REPEATS,
        "the share of inputs with the same largest output as the reference, of the worst repeat",
        job_sql="min(CAST(runs.output_argmax_matches AS DOUBLE PRECISION) / NULLIF(runs.output_count, 0))",
    ),
    Column("output_argmax_matches", Kind.INTEGER, Origin.OUTPUTS, "inputs with the same largest output"),
    Column("output_count", Kind.INTEGER, Origin.OUTPUTS, "inputs that have reference outputs"),
)  # fmt: skip
COMPUTED = (
    Column(
        "target", Kind.STRING, Origin.JOB, "what the artifact is lowered for, e.g. `jetson-nano`",
        job_sql="jobs.target", run_sql="jobs.target",
    ),
    Column(
        "realised_precision", Kind.JSON, Origin.ENGINE,
        'layers by the type that the engine computes them in, e.g. `{"int8": 35, "fp16": 140}`', Over.LAST,
    ),
    Column(
        "conditions", Kind.JSON, Origin.RECORDED,
        "settings that a comparison depends on; see [below](#conditions-and-findings)", Over.LAST,
    ),
    Column(
        "paper_latency_s", Kind.DOUBLE, Origin.REPEATS,
        "the mean over all inferences of all repeats, as the paper averages",
        job_sql="sum(runs.latency_mean_s * runs.latency_count) / sum(runs.latency_count)",
        cell=Cell("paper", "paper latency", "ms", place=1),
    ),
    Column(
        "paper", Kind.BOOLEAN, Origin.JOB,
        "true when the campaign was submitted with `--paper`; the paper's numbers are also there without it",
        job_sql="campaigns.paper",
    ),
    Column("engine_sha256", Kind.STRING, Origin.ENGINE, "the engine, by its SHA-256 (table `engines`)"),
    Column("engine_bytes", Kind.BIGINT, Origin.ENGINE, "the size of the engine that the device built", Over.MEDIAN),
    Column(
        "build_s", Kind.DOUBLE, Origin.STAGES, "building the engine; a repeat that had it in its cache does not count",
        Over.MEDIAN,
    ),
    Column(
        "warm_load_s", Kind.DOUBLE, Origin.STAGES, "loading once more in the same process, without an inference",
        Over.MEDIAN,
    ),
    *(
        Column(
            f"clock_{domain}_target_hz", Kind.DOUBLE, Origin.MEASURED,
            f"the target of the locked {label} clock", Over.MAX,
        )
        for domain, label in (("gpu", "GPU"), ("emc", "memory"), ("cpu", "CPU"))
    ),
)  # fmt: skip
