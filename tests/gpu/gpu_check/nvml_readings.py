"""The agent's NVML sampler beside nvidia-smi: the same quantities in the same units."""

import os
import subprocess
import time
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers import nvml

from gpu_check.machine import SMI_TIMEOUT_S
from gpu_check.rows import Absent, Seen

ENERGY_S = 1.0
# Clocks and loads change between two readings: nvidia-smi's lies between the sampler's before and after it, in one try.
_TRIES = 4


class Quantity(NamedTuple):
    """A series, the names that nvidia-smi has had for it (the newest first), its unit there, and what may differ."""

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
    """Every quantity of the sampler is what nvidia-smi says of the same GPU."""
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
    """Yield a row for each quantity: agreed in one of a few tries, else what differed in the last."""
    open_names = list(quantities)
    rows = {}
    for _ in range(_TRIES):
        before = {name: reading(samplers[name]) for name in open_names}
        said = ask({name: names[name] for name in open_names if name in names}, uuid)
        after = {name: reading(samplers[name]) for name in open_names}
        for name in open_names:
            rows[name] = compare(quantities[name], (before[name], after[name]), said.get(name, ""))
        open_names = [name for name in open_names if isinstance(rows[name], Exception)]
        if not open_names:
            break
    yield from rows.items()


def reading(sampler):
    """Return a sampler's value, None where it has none, or the SensorError."""
    try:
        return sampler.sample()
    except SensorError as error:
        return error


def compare(quantity: Quantity, ours: Sequence, said: str):
    """Return what was seen: text where both agree or nvidia-smi says nothing, an error where they differ."""
    for value in ours:
        if isinstance(value, Exception):
            return value
    theirs = number(said)
    words = "{} and {}, nvidia-smi {}".format(ours[0], ours[1], said or "was not asked")
    if not said:
        return words
    values = [value for value in ours if value is not None]
    if theirs is None or not values:
        return words if theirs is None and not values else AssertionError(words)
    theirs *= quantity.unit
    slack = max(quantity.absolute, quantity.relative * theirs)
    return words if min(values) - slack <= theirs <= max(values) + slack else AssertionError(words)


def number(said: str) -> Optional[float]:
    """Return what nvidia-smi says as a number, None for "[N/A]" and its like."""
    try:
        return float(int(said, 16)) if said.startswith("0x") else float(said)
    except ValueError:
        return None


def known_fields(uuid: str, quantities) -> Dict[str, str]:
    """Return the name that this nvidia-smi has for each quantity; Absent where there is no nvidia-smi."""
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
    """Return what nvidia-smi says of each quantity."""
    if not fields:
        return {}
    code, text = _smi(list(fields.values()), uuid)
    values = [value.strip() for value in text.split(",")]
    if code or len(values) != len(fields):
        raise AssertionError("nvidia-smi answered: {}".format(text))
    return dict(zip(fields, values))


def _smi(fields: List[str], uuid: str) -> Tuple[int, str]:
    """Return nvidia-smi's exit code and its first line; Absent where there is none or it hangs."""
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
    """Return the rise of the energy counter over a second as power, beside the power that was read meanwhile."""
    counter, power = samplers["energy_gpu_j"], samplers["power_gpu_w"]
    first_j, started_s = reading(counter), time.monotonic()
    if first_j is None or isinstance(first_j, Exception):
        return "no counter" if first_j is None else first_j
    watts = []
    while time.monotonic() - started_s < ENERGY_S:
        watts.append(reading(power))
        time.sleep(0.05)
    mean_w = (counter.sample() - first_j) / (time.monotonic() - started_s)
    numbers = [value for value in watts if isinstance(value, float)]
    if not numbers:
        return "{:.1f} W by the counter, no power to compare with".format(mean_w)
    words = "{:.1f} W by the counter, {:.1f} to {:.1f} W read".format(mean_w, min(numbers), max(numbers))
    slack = max(10.0, 0.5 * max(numbers))
    return words if min(numbers) - slack <= mean_w <= max(numbers) + slack else AssertionError(words)
