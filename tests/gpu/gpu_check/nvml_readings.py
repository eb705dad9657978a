"""The agent's NVML sampler compared with nvidia-smi."""

import os
import subprocess
import time
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers import nvml

from gpu_check.machine import SMI_TIMEOUT_S
from gpu_check.rows import Absent, Seen

ENERGY_S = 1.0
# Clocks and loads change between two readings. In one of these tries, nvidia-smi's must lie between the sampler's
# readings before and after it.
_TRIES = 4


class Quantity(NamedTuple):
    """A series in nvidia-smi.

    `fields` are its names there, the newest first. `unit` is its unit there. `absolute` and `relative` are the
    accepted differences.
    """

    fields: Sequence[str]
    unit: float
    absolute: float
    relative: float = 0.0


QUANTITIES = {
    "gpu_used_bytes": Quantity(("memory.used",), 1 << 20, 64 << 20),
    "power_gpu_w": Quantity(("power.draw.instant", "power.draw"), 1.0, 10.0, 0.25),
    "clock_gpu_hz": Quantity(("clocks.gr",), 1e6, 30e6),
    "clock_memory_hz": Quantity(("clocks.mem",), 1e6, 30e6),
    "load_gpu": Quantity(("utilization.gpu",), 0.01, 0.2),
    "temperature_gpu_c": Quantity(("temperature.gpu",), 1.0, 2.0),
    "throttle_bits": Quantity(("clocks_event_reasons.active", "clocks_throttle_reasons.active"), 1.0, 0.0),
}


def check() -> Seen:
    """Compare every quantity of the sampler with nvidia-smi's, on the same GPU.

    Raises Absent without NVML.
    """
    gpu = nvml.open_gpu(os.environ.get("GPU_CHECK_UUID", ""))
    if gpu is None:
        raise Absent("there is no NVML here, or no module pynvml (pip install nvidia-ml-py)")
    try:
        samplers = {sampler.name: sampler for sampler in nvml.board_samplers(gpu)}
        uuid = gpu.ask(gpu.nvml.nvmlDeviceGetUUID) or ""
        uuid = uuid.decode() if isinstance(uuid, bytes) else uuid
        instant = nvml.has_instant_power(gpu)
        yield "power", "of the moment" if instant else "the driver's own average"
        quantities = dict(QUANTITIES)
        if not instant:
            quantities["power_gpu_w"] = QUANTITIES["power_gpu_w"]._replace(fields=("power.draw",))
        try:
            names = known_fields(uuid, quantities)
        except Absent as reason:
            yield "nvidia-smi", reason
            names = {}
        yield from _compared(samplers, quantities, names, uuid)
        yield "energy_gpu_j against power_gpu_w", energy(samplers)
    finally:
        gpu.close()


def _compared(samplers, quantities, names, uuid):
    """Yield a row for each quantity.

    A quantity agrees when it does so in one try. Otherwise its row is the difference in the last try.
    """
    open_names = list(quantities)
    rows = {}
    for _ in range(_TRIES):
        before = {name: reading(samplers[name]) for name in open_names}
        theirs = ask({name: names[name] for name in open_names if name in names}, uuid)
        after = {name: reading(samplers[name]) for name in open_names}
        for name in open_names:
            rows[name] = compare(quantities[name], (before[name], after[name]), theirs.get(name, ""))
        open_names = [name for name in open_names if isinstance(rows[name], Exception)]
        if not open_names:
            break
    yield from rows.items()


def reading(sampler):
    """Return a sampler's value, None without one, or the SensorError."""
    try:
        return sampler.sample()
    except SensorError as error:
        return error


def compare(quantity: Quantity, ours: Sequence, text: str):
    """Compare the sampler's values with nvidia-smi's text.

    Returns both as text when they agree or nvidia-smi gave nothing, an AssertionError when they differ, and the
    sampler's own error.
    """
    for value in ours:
        if isinstance(value, Exception):
            return value
    theirs = number(text)
    words = "{} and {}, nvidia-smi {}".format(ours[0], ours[1], text or "was not asked")
    if not text:
        return words
    values = [value for value in ours if value is not None]
    if theirs is None or not values:
        return words if theirs is None and not values else AssertionError(words)
    theirs *= quantity.unit
    slack = max(quantity.absolute, quantity.relative * theirs)
    return words if min(values) - slack <= theirs <= max(values) + slack else AssertionError(words)


def number(text: str) -> Optional[float]:
    """Parse a value of nvidia-smi, None for "[N/A]" and similar."""
    try:
        return float(int(text, 16)) if text.startswith("0x") else float(text)
    except ValueError:
        return None


def known_fields(uuid: str, quantities) -> Dict[str, str]:
    """Return this nvidia-smi's name of each quantity that it knows.

    Raises Absent without a working nvidia-smi.
    """
    newest = {name: quantity.fields[0] for name, quantity in quantities.items()}
    code, _ = _smi(list(newest.values()), uuid)
    if code == 0:
        return newest
    known = {}
    for name, quantity in quantities.items():
        for field in quantity.fields:
            if name not in known and _smi([field], uuid)[0] == 0:
                known[name] = field
    if not known:
        raise Absent("nvidia-smi: {}".format(_smi(["memory.used"], uuid)[1]))
    return known


def ask(fields: Dict[str, str], uuid: str) -> Dict[str, str]:
    """Return nvidia-smi's text for each quantity.

    Raises AssertionError when its answer is not one value for each.
    """
    if not fields:
        return {}
    code, text = _smi(list(fields.values()), uuid)
    values = [value.strip() for value in text.split(",")]
    if code or len(values) != len(fields):
        raise AssertionError("nvidia-smi answered: {}".format(text))
    return dict(zip(fields, values))


def _smi(fields: List[str], uuid: str) -> Tuple[int, str]:
    """Return nvidia-smi's exit code and its first line.

    Raises Absent when it is missing or hangs.
    """
    command = ["nvidia-smi", "--query-gpu=" + ",".join(fields), "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command + (["-i", uuid] if uuid else []),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SMI_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Absent("nvidia-smi: {}".format(error)) from error
    return done.returncode, (done.stdout.decode(errors="replace").strip().splitlines() or ["no answer"])[0]


def energy(samplers):
    """Compare the energy counter's rise over a second with the power.

    Returns both as text, an AssertionError when they differ, or the counter's own error.
    """
    counter, power = samplers["energy_gpu_j"], samplers["power_gpu_w"]
    first_j, started_s = reading(counter), time.monotonic()
    if first_j is None or isinstance(first_j, Exception):
        return "no counter" if first_j is None else first_j
    watts = []
    while time.monotonic() - started_s < ENERGY_S:
        watts.append(reading(power))
    mean_w = (counter.sample() - first_j) / (time.monotonic() - started_s)
    numbers = [value for value in watts if isinstance(value, float)]
    if not numbers:
        return "{:.1f} W by the counter, no power to compare with".format(mean_w)
    words = "{:.1f} W by the counter, {:.1f} to {:.1f} W read".format(mean_w, min(numbers), max(numbers))
    slack = max(10.0, 0.5 * max(numbers))
    return words if min(numbers) - slack <= mean_w <= max(numbers) + slack else AssertionError(words)
