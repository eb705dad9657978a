"""A discrete GPU's memory, energy, clocks, temperature and processes, from NVML.

The bindings are `nvidia-ml-py`, whose module is called `pynvml`. They are imported where they are needed, and tests
pass a double. A call that this GPU or driver does not support makes its quantity absent. Any other NVML error is a
SensorError. No JetPack before 7 has NVML.
"""

import contextlib
from typing import Any, Callable, Iterable, List, NamedTuple, Optional, Sequence

from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.base import Budgeted, Part, Sampler

# Listing processes asks the driver twice, so it is rate-limited to this share of one core.
PROCESS_LIST_SHARE = 0.0005


class GpuProcess(NamedTuple):
    """A process that computes on the GPU.

    `pid` is the host's. `used_bytes` is its memory on the GPU, None where the driver does not give it.
    """

    pid: int
    used_bytes: Optional[int]


class Gpu:
    """One GPU, read through NVML.

    Call `close` once, after its last sampler is closed.
    """

    def __init__(self, nvml: Any, handle: Any, path: str) -> None:
        self.nvml = nvml
        self.handle = handle
        self.path = path

    def ask(self, call: Callable[..., Any], *arguments: Any) -> Optional[Any]:
        """Return the call's answer about this GPU, None when unsupported.

        Raises SensorError, naming the call, for any other error of NVML.
        """
        nvml = self.nvml
        try:
            return call(self.handle, *arguments)
        except getattr(nvml, "NVMLLibraryMismatchError", ()):  # bindings newer than the driver: not an NVMLError
            return None
        except nvml.NVMLError as error:
            if error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
                return None
            raise SensorError("{} {}".format(self.path, call.__name__), str(error).lower()) from error

    def memory(self) -> Optional[Any]:
        """Return NVML's total, free and used bytes.

        `used` excludes the driver's reserve where bindings and driver both know nvmlMemory_v2. Returns None and raises
        SensorError like `ask`.
        """
        nvml = self.nvml
        if hasattr(nvml, "nvmlMemory_v2"):
            answer = self.ask(nvml.nvmlDeviceGetMemoryInfo, nvml.nvmlMemory_v2)
            if answer is not None:
                return answer
        return self.ask(nvml.nvmlDeviceGetMemoryInfo)

    def processes(self) -> Optional[List[GpuProcess]]:
        """Return the processes on this GPU, None when they cannot be listed.

        Raises SensorError like `ask`.
        """
        processes = self.ask(self.nvml.nvmlDeviceGetComputeRunningProcesses)
        if processes is None:
            return None
        return [GpuProcess(process.pid, process.usedGpuMemory) for process in processes]

    def close(self) -> None:
        """Shut NVML down."""
        with contextlib.suppress(self.nvml.NVMLError):
            self.nvml.nvmlShutdown()


def open_gpu(uuid: str = "", nvml: Any = None) -> Optional[Gpu]:
    """Return the GPU with this UUID, or the first without one.

    Returns None without bindings, driver or GPU. A UUID has CUDA's form ("GPU-…"). Only a UUID names the GPU that CUDA
    uses, because CUDA's first GPU is the fastest, and NVML counts by PCI bus.
    Raises SensorError when all three exist and do not work, and when no GPU has this UUID.
    """
    if nvml is None:
        try:
            import pynvml
        except ImportError:
            return None
        nvml = pynvml
    absent = (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED)
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if error.value in absent:
            return None
        raise SensorError("nvml", str(error).lower()) from error
    path = "nvml gpu {}".format(uuid or 0)
    try:
        if not nvml.nvmlDeviceGetCount():
            nvml.nvmlShutdown()
            return None
        # In bytes, because bindings before 11.5 accept no text.
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid.encode()) if uuid else nvml.nvmlDeviceGetHandleByIndex(0)
    except nvml.NVMLError as error:
        nvml.nvmlShutdown()
        raise SensorError(path, str(error).lower()) from error
    return Gpu(nvml, handle, path)


def other_processes(gpu: Gpu, own_pids: Iterable[int]) -> Optional[List[GpuProcess]]:
    """Return the GPU's processes except `own_pids`, None when they cannot be listed.

    Such a process makes a result invalid. In a container NVML gives the host's pids, which differ from the agent's
    own, so call this before the child exists. Raises SensorError like `Gpu.ask`.
    """
    own, listed = frozenset(own_pids), gpu.processes()
    return None if listed is None else [process for process in listed if process.pid not in own]


class GpuQuantity(Sampler):
    """One number of NVML.

    After a "not supported" it is absent and is not read again.
    """

    def __init__(self, name: str, read: Callable[[], Optional[float]]) -> None:
        self.name = name
        self._read: Optional[Callable[[], Optional[float]]] = read

    def sample(self) -> Optional[float]:
        """Return the quantity, None when this GPU or driver lacks it.

        Raises SensorError like `Gpu.ask`.
        """
        if self._read is None:
            return None
        value = self._read()
        if value is None:
            self._read = None
        return value

    def close(self) -> None:
        """Stop reading.

        The caller of `open_gpu` closes the GPU.
        """
        self._read = None


class GpuProcessBytes(Sampler):
    """Bytes on the GPU that NVML attributes to one process.

    None where the process or its memory is not listed, as in a container, where NVML gives the host's pids. The
    process's memory is then the rise of gpu_used_bytes since before it was started.
    """

    name = "gpu_process_bytes"

    def __init__(self, gpu: Gpu, pid: int) -> None:
        self._gpu = gpu
        self._pid = pid

    def sample(self) -> Optional[float]:
        """Return the bytes, None when NVML does not give them.

        Raises SensorError like `Gpu.ask`.
        """
        for process in self._gpu.processes() or ():
            if process.pid == self._pid and process.used_bytes is not None:
                return float(process.used_bytes)
        return None

    def close(self) -> None:
        """Do nothing.

        The caller of `open_gpu` closes the GPU.
        """


def board_samplers(gpu: Gpu) -> List[Sampler]:
    """Return the samplers of the whole GPU."""
    nvml, ask = gpu.nvml, gpu.ask

    def clock(kind: int) -> Callable[[], Optional[float]]:
        return lambda: _scaled(ask(nvml.nvmlDeviceGetClockInfo, kind), times=1000000)

    def load() -> Optional[float]:
        rates = ask(nvml.nvmlDeviceGetUtilizationRates)
        return None if rates is None else rates.gpu / 100

    def used() -> Optional[float]:
        memory = gpu.memory()
        return None if memory is None else float(memory.used)

    return [
        GpuQuantity("gpu_used_bytes", used),
        GpuQuantity("energy_gpu_j", lambda: _scaled(ask(nvml.nvmlDeviceGetTotalEnergyConsumption), over=1000)),
        GpuQuantity("power_gpu_w", power_reader(gpu)),
        GpuQuantity("clock_gpu_hz", clock(nvml.NVML_CLOCK_GRAPHICS)),
        GpuQuantity("clock_memory_hz", clock(nvml.NVML_CLOCK_MEM)),
        GpuQuantity("load_gpu", load),
        GpuQuantity("temperature_gpu_c", lambda: _scaled(_temperature(gpu))),
        GpuQuantity("throttle_bits", lambda: _scaled(_throttle_bits(gpu))),
    ]


def child_samplers(gpu: Gpu, pid: int) -> List[Sampler]:
    """Return the samplers of one process on the GPU."""
    return [Budgeted(GpuProcessBytes(gpu, pid), PROCESS_LIST_SHARE)]


def has_instant_power(gpu: Gpu) -> bool:
    """Tell whether NVML gives the power of this moment.

    Otherwise the power of an Ampere GPU is the mean of the last second. Raises SensorError like `Gpu.ask`.
    """
    return _instant_power(gpu) is not None


def power_reader(gpu: Gpu) -> Callable[[], Optional[float]]:
    """Return a function that reads the GPU's power in watts.

    The power is that of this moment where NVML gives it, else the driver's own mean. Raises SensorError like `Gpu.ask`.
    """
    if has_instant_power(gpu):
        return lambda: _instant_power(gpu)
    return lambda: _scaled(gpu.ask(gpu.nvml.nvmlDeviceGetPowerUsage), over=1000)


def _instant_power(gpu: Gpu) -> Optional[float]:
    field = getattr(gpu.nvml, "NVML_FI_DEV_POWER_INSTANT", None)
    answers = None if field is None else gpu.ask(gpu.nvml.nvmlDeviceGetFieldValues, [field])
    # A field has its own return code. The value is in milliwatts, as an unsigned integer.
    return answers[0].value.uiVal / 1000 if answers and answers[0].nvmlReturn == 0 else None


def has_energy(gpu: Gpu) -> bool:
    """Tell whether NVML counts the GPU's energy.

    Raises SensorError like `Gpu.ask`.
    """
    return gpu.ask(gpu.nvml.nvmlDeviceGetTotalEnergyConsumption) is not None


def has_power(gpu: Gpu) -> bool:
    """Tell whether NVML gives the GPU's power in any form.

    Raises SensorError like `Gpu.ask`.
    """
    return power_reader(gpu)() is not None


def _throttle_bits(gpu: Gpu) -> Optional[int]:
    """Return why the clocks are reduced, None when unsupported.

    The names and bits of event reasons and throttle reasons are the same. Bindings before 12.535 lack the first call,
    and so does a driver before 535 under newer bindings.
    """
    for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
        call = getattr(gpu.nvml, name, None)
        answer = None if call is None else gpu.ask(call)
        if answer is not None:
            return int(answer)
    return None


def _temperature(gpu: Gpu) -> Optional[int]:
    """Return the temperature in °C, None when unsupported.

    The old call, which every driver knows, is the fallback. CUDA 14 drops it.
    """
    nvml = gpu.nvml
    newer = getattr(nvml, "nvmlDeviceGetTemperatureV", None)
    answer = None if newer is None else gpu.ask(newer, nvml.NVML_TEMPERATURE_GPU)
    return gpu.ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU) if answer is None else answer


def _scaled(number: Optional[float], times: int = 1, over: int = 1) -> Optional[float]:
    return None if number is None else float(number) * times / over


BOARD_PARTS: Sequence[Part] = (lambda roots: board_samplers(roots.gpu) if roots.gpu else [],)
