"""NVML through a double with the documented calls, structures and errors.

nvidia-ml-py is not needed here.
"""

import types

import pytest
from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers import board_samplers as all_board_samplers
from efficientquant_agent.samplers import discover
from efficientquant_agent.samplers.nvml import (
    GpuProcess,
    board_samplers,
    child_samplers,
    has_instant_power,
    open_gpu,
    other_processes,
)

UUID = "GPU-5a1d0b1c-7f2e-4d39-a6f1-0f7c9f0f9b3a"
RTX_3080 = {
    "nvmlDeviceGetTotalEnergyConsumption": 123456789,
    "nvmlDeviceGetPowerUsage": 98123,
    "nvmlDeviceGetTemperature": 61,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
    "nvmlDeviceGetComputeRunningProcesses": [
        types.SimpleNamespace(pid=4242, usedGpuMemory=734003200),
        types.SimpleNamespace(pid=77, usedGpuMemory=None),
    ],
    "nvmlDeviceGetUtilizationRates": types.SimpleNamespace(gpu=93, memory=41),
}
MEMORY = {None: (10737418240, 9126805504, 1610612736), 0x02000028: (10737418240, 9126805504, 1207959552)}
CLOCKS = {0: 1710, 2: 9501}


class NvmlDouble:
    """A double of the bindings.

    A call in `errors` raises its error, which is an exception or an integer code. Other calls give `answers`.
    """

    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_NO_PERMISSION = 4
    NVML_ERROR_NOT_FOUND = 6
    NVML_ERROR_DRIVER_NOT_LOADED = 9
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_FUNCTION_NOT_FOUND = 13
    NVML_ERROR_GPU_IS_LOST = 15
    NVML_CLOCK_GRAPHICS = 0
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0
    NVML_FI_DEV_POWER_INSTANT = 186
    nvmlMemory_v2 = 0x02000028  # noqa: N815

    class NVMLError(Exception):
        """An error with a code and a sentence."""

        def __init__(self, value):
            super().__init__("Error {}".format(value))
            self.value = value

    class NVMLLibraryMismatchError(Exception):
        """The bindings' error for an unversioned call that the driver lacks.

        It is no NVMLError.
        """

    def __init__(self, answers=RTX_3080, errors=(), count=1):
        self.answers = dict(answers)
        self.errors = dict(errors)
        self.calls = []
        self.open = 0
        self.count = count
        for name in RTX_3080:
            setattr(self, name, self._call(name, lambda *_, name=name: self.answers[name]))
        self.nvmlDeviceGetMemoryInfo = self._call("nvmlDeviceGetMemoryInfo", self._memory)
        self.nvmlDeviceGetClockInfo = self._call("nvmlDeviceGetClockInfo", lambda _, kind: CLOCKS[kind])
        self.nvmlDeviceGetFieldValues = self._call("nvmlDeviceGetFieldValues", self._fields)

    def _call(self, name, answer):
        def call(*arguments):
            self.calls.append(name)
            if name in self.errors:
                error = self.errors[name]
                raise error if isinstance(error, Exception) else self.NVMLError(error)
            return answer(*arguments)

        call.__name__ = name
        return call

    def _memory(self, _, version=None):
        total, free, used = MEMORY[version]
        return types.SimpleNamespace(total=total, free=free, used=used)

    def _fields(self, _, fields):
        assert fields == [186]
        code = self.answers.get("field_return", 0)
        return [types.SimpleNamespace(nvmlReturn=code, value=types.SimpleNamespace(uiVal=241500))]

    def nvmlInit(self):  # noqa: N802
        """Open NVML or raise."""
        if "nvmlInit" in self.errors:
            raise self.NVMLError(self.errors["nvmlInit"])
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        """Close NVML."""
        self.open -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        """Count GPUs."""
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        """Return a handle."""
        if "nvmlDeviceGetHandleByIndex" in self.errors:
            raise self.NVMLError(self.errors["nvmlDeviceGetHandleByIndex"])
        return "handle {}".format(index)

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        """Return the last GPU's handle for its UUID, which old bindings take in bytes."""
        if uuid != UUID.encode():
            raise self.NVMLError(self.NVML_ERROR_NOT_FOUND)
        return "handle {}".format(self.count - 1)


def by_name(samplers):
    return {sampler.name: sampler for sampler in samplers}


def test_board(sampled):
    """Every quantity of the GPU is in SI units, and used memory excludes the driver's reserve."""
    gpu = open_gpu(nvml=NvmlDouble())

    assert sampled(board_samplers(gpu)) == {
        "gpu_used_bytes": 1207959552.0,
        "energy_gpu_j": 123456.789,
        "power_gpu_w": 241.5,
        "clock_gpu_hz": 1.71e9,
        "clock_memory_hz": 9.501e9,
        "load_gpu": 0.93,
        "temperature_gpu_c": 61.0,
        "throttle_bits": 4.0,
    }


def test_old_bindings(sampled):
    """Bindings without the second memory structure, fields and today's names work, too."""
    nvml = NvmlDouble()
    reasons = nvml.nvmlDeviceGetCurrentClocksEventReasons
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = reasons
    del nvml.nvmlDeviceGetCurrentClocksEventReasons
    without = type("OldBindings", (), {name: getattr(nvml, name) for name in dir(nvml) if not name.startswith("__")})
    for name in ("nvmlMemory_v2", "NVML_FI_DEV_POWER_INSTANT", "NVMLLibraryMismatchError"):
        delattr(without, name)
    for name in dir(without):
        if callable(getattr(without, name)) and name.startswith("nvml"):
            setattr(without, name, staticmethod(getattr(without, name)))
    gpu = open_gpu(nvml=without)

    by_series = sampled(board_samplers(gpu))

    assert by_series["gpu_used_bytes"] == 1610612736.0
    assert (by_series["power_gpu_w"], by_series["throttle_bits"]) == (98.123, 4.0)


def test_average_power(sampled):
    """A GPU without the power of this moment has the driver's average."""
    gpu = open_gpu(nvml=NvmlDouble(dict(RTX_3080, field_return=3)))

    assert not has_instant_power(gpu)
    assert sampled(board_samplers(gpu))["power_gpu_w"] == 98.123


def test_new_bindings_on_an_old_driver(sampled):
    """A driver without event reasons is asked for throttle reasons."""
    nvml = NvmlDouble(errors={"nvmlDeviceGetCurrentClocksEventReasons": NvmlDouble.NVML_ERROR_FUNCTION_NOT_FOUND})
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = nvml._call(
        "nvmlDeviceGetCurrentClocksThrottleReasons", lambda *_: 0x8
    )

    assert sampled(board_samplers(open_gpu(nvml=nvml)))["throttle_bits"] == 8.0


def test_new_way_to_ask_for_heat(sampled):
    """The new temperature call comes first, and a driver that lacks it gets the old call."""
    nvml = NvmlDouble()
    nvml.nvmlDeviceGetTemperatureV = nvml._call("nvmlDeviceGetTemperatureV", lambda *_: 62)

    assert sampled(board_samplers(open_gpu(nvml=nvml)))["temperature_gpu_c"] == 62.0
    nvml.errors["nvmlDeviceGetTemperatureV"] = nvml.NVML_ERROR_FUNCTION_NOT_FOUND
    assert sampled(board_samplers(open_gpu(nvml=nvml)))["temperature_gpu_c"] == 61.0


@pytest.mark.parametrize("code", [3, 13, NvmlDouble.NVMLLibraryMismatchError("too new")])
def test_not_supported(code):
    """A quantity that the GPU or its driver does not support is absent, and is asked for once."""
    nvml = NvmlDouble(errors={"nvmlDeviceGetTotalEnergyConsumption": code})
    energy = by_name(board_samplers(open_gpu(nvml=nvml)))["energy_gpu_j"]

    assert [energy.sample(), energy.sample()] == [None, None]
    assert nvml.calls.count("nvmlDeviceGetTotalEnergyConsumption") == 1


def test_broken():
    """Any other error is a SensorError that names the call."""
    nvml = NvmlDouble(errors={"nvmlDeviceGetClockInfo": NvmlDouble.NVML_ERROR_GPU_IS_LOST})
    clock = by_name(board_samplers(open_gpu(nvml=nvml)))["clock_gpu_hz"]

    with pytest.raises(SensorError, match="nvml gpu 0 nvmlDeviceGetClockInfo: error 15"):
        clock.sample()


@pytest.mark.parametrize(("pid", "expected"), [(4242, 734003200.0), (77, None), (1, None)])
def test_memory_of_a_process(pid, expected):
    """A process has its listed memory, and none when it is listed without memory or not at all."""
    (sampler,) = child_samplers(open_gpu(nvml=NvmlDouble()), pid)

    assert sampler.name == "gpu_process_bytes"
    assert sampler.sample() == expected


def test_other_processes():
    """Other processes that compute on the GPU are listed with their memory, as far as it is known."""
    gpu = open_gpu(nvml=NvmlDouble())

    assert other_processes(gpu, [4242]) == [GpuProcess(77, None)]
    assert other_processes(gpu, []) == [GpuProcess(4242, 734003200), GpuProcess(77, None)]
    assert other_processes(gpu, [77, 4242]) == []


def test_other_processes_unknown():
    """A list that the driver refuses is a SensorError, and a list that it does not support is None."""
    refused = NvmlDouble(errors={"nvmlDeviceGetComputeRunningProcesses": NvmlDouble.NVML_ERROR_NO_PERMISSION})
    lacking = NvmlDouble(errors={"nvmlDeviceGetComputeRunningProcesses": NvmlDouble.NVML_ERROR_NOT_SUPPORTED})

    with pytest.raises(SensorError, match="nvmlDeviceGetComputeRunningProcesses: error 4"):
        other_processes(open_gpu(nvml=refused), [])
    assert other_processes(open_gpu(nvml=lacking), []) is None


@pytest.mark.parametrize("code", [9, 12])
def test_no_driver(code):
    """Without a driver there is no GPU and no error."""
    assert open_gpu(nvml=NvmlDouble(errors={"nvmlInit": code})) is None


def test_no_such_gpu():
    """On a machine with a driver and no GPU, NVML is shut down."""
    nvml = NvmlDouble(count=0)

    assert open_gpu(nvml=nvml) is None
    assert nvml.open == 0


def test_gpu_of_a_uuid():
    """Of two GPUs the one with the UUID is opened, and its errors name the UUID."""
    nvml = NvmlDouble(count=2, errors={"nvmlDeviceGetClockInfo": NvmlDouble.NVML_ERROR_GPU_IS_LOST})

    gpu = open_gpu(UUID, nvml)

    assert gpu.handle == "handle 1"
    with pytest.raises(SensorError, match=UUID + " nvmlDeviceGetClockInfo: error 15"):
        by_name(board_samplers(gpu))["clock_gpu_hz"].sample()


def test_no_gpu_of_that_uuid():
    """A UUID that no GPU has is a SensorError that names it, and no other GPU is opened."""
    nvml = NvmlDouble(count=2)

    with pytest.raises(SensorError, match="nvml gpu GPU-0: error 6"):
        open_gpu("GPU-0", nvml)
    assert nvml.open == 0


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetHandleByIndex"])
def test_driver_that_does_not_work(call):
    """A driver that fails is a SensorError, and NVML is shut down."""
    nvml = NvmlDouble(errors={call: NvmlDouble.NVML_ERROR_GPU_IS_LOST})

    with pytest.raises(SensorError, match=r"nvml.*: error 15"):
        open_gpu(nvml=nvml)
    assert nvml.open == 0


def test_close():
    """Closing the GPU shuts NVML down."""
    nvml = NvmlDouble()
    open_gpu(nvml=nvml).close()

    assert nvml.open == 0


@pytest.fixture
def discovered(boards):
    """Discover a board with this NVML, and close the samplers after the test."""
    discoveries = []

    def find(board, nvml, **options):
        root = boards / board
        discoveries.append(discover(str(root / "proc"), str(root / "sys"), nvml_module=nvml, **options))
        return discoveries[-1]

    yield find
    for discovery in discoveries:
        for sampler in discovery.samplers:
            sampler.close()


def test_discovered(discovered):
    """A PC with an NVIDIA GPU gets NVML's samplers, and its total power is named GPU."""
    discovery = discovered("x86", NvmlDouble())

    assert {"energy_gpu_j", "throttle_bits"} <= set(by_name(discovery.samplers))
    assert (discovery.gpu.handle, discovery.rail_set, discovery.notes) == ("handle 0", "GPU", [])


def test_discovered_by_uuid(discovered):
    """On a PC the GPU that the run uses is watched, and a missing GPU is a note."""
    assert discovered("x86", NvmlDouble(count=3), gpu_uuid=UUID).gpu.handle == "handle 2"

    absent = discovered("x86", NvmlDouble(count=3), gpu_uuid="GPU-0")

    assert (absent.gpu, absent.rail_set, absent.notes[0]) == (None, "", "nvml gpu GPU-0: error 6")


def test_run_on_the_cpu(discovered):
    """For a run without a GPU, NVML is not opened, and no GPU's power is taken as the total."""
    nvml = NvmlDouble(errors={"nvmlInit": NvmlDouble.NVML_ERROR_GPU_IS_LOST})

    discovery = discovered("x86", nvml, gpu_uuid=UUID, use_gpu=False)

    assert (discovery.gpu, discovery.rail_set, nvml.calls) == (None, "", [])
    assert [note[:9] for note in discovery.notes] == ["no power:"]
    assert not [name for name in by_name(discovery.samplers) if "gpu" in name]


POWER_CALLS = ("nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage")


def test_discovered_without_power_and_energy(discovered):
    """A GPU without power and energy has no rail set."""
    calls = (*POWER_CALLS, "nvmlDeviceGetTotalEnergyConsumption")
    nvml = NvmlDouble(errors=dict.fromkeys(calls, NvmlDouble.NVML_ERROR_NOT_SUPPORTED))

    discovery = discovered("x86", nvml)

    assert (discovery.rail_set, discovery.notes) == (
        "",
        ["no power: NVML gives neither power nor energy of this GPU"],
    )


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        (POWER_CALLS, "there is no power_gpu_w; energy_gpu_j is exact"),
        (
            ("nvmlDeviceGetFieldValues", "nvmlDeviceGetTotalEnergyConsumption"),
            "power_gpu_w is the driver's own average, not of the moment, and there is no energy_gpu_j",
        ),
    ],
)
def test_discovered_with_power_or_energy(discovered, missing, note):
    """A GPU with power or energy alone has a rail set."""
    nvml = NvmlDouble(errors=dict.fromkeys(missing, NvmlDouble.NVML_ERROR_NOT_SUPPORTED))

    discovery = discovered("x86", nvml)

    assert (discovery.rail_set, discovery.notes) == ("GPU", [note])


def test_discovered_without_power_of_the_moment(discovered):
    """A note says when the power is an average."""
    discovery = discovered("x86", NvmlDouble(errors={"nvmlDeviceGetFieldValues": 3}))

    assert discovery.notes == ["power_gpu_w is the driver's own average, not of the moment; energy_gpu_j is exact"]


def test_discovered_and_broken(discovered):
    """A driver that fails is a note, and discovery continues without it."""
    discovery = discovered("x86", NvmlDouble(errors={"nvmlInit": NvmlDouble.NVML_ERROR_GPU_IS_LOST}))

    assert discovery.gpu is None
    assert discovery.notes[0] == "nvml: error 15"
    assert "board_used_bytes" in by_name(discovery.samplers)


def test_one_source_for_each_quantity(boards):
    """Where a file and NVML have the same quantity, the file is read."""
    root = boards / "nano-r32.7.4"
    samplers = all_board_samplers(str(root / "proc"), str(root / "sys"), open_gpu(nvml=NvmlDouble()))

    assert len(samplers) == len(by_name(samplers))
    assert by_name(samplers)["load_gpu"].sample() == 0.873
    assert by_name(samplers)["energy_gpu_j"].sample() == 123456.789
