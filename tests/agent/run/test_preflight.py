"""The checks before a run, and their sentences."""

import types

import pytest
from efficientquant_agent.errors import RunFailedError, SensorError
from efficientquant_agent.records import Finding
from efficientquant_agent.run import preflight

# As the controller sends it.
HOT_ZONES = r"temperature_(?:gpu|cpu|tj)[\w.-]*_c"


class Gpu:
    """A GPU used by processes with these pids, or by unknown processes."""

    def __init__(self, *pids, error=None):
        self._pids = pids
        self._error = error

    def processes(self):
        """Return the processes, None when they are unknown."""
        if self._error:
            raise self._error
        if self._pids == (None,):
            return None
        return [types.SimpleNamespace(pid=pid, used_bytes=None) for pid in self._pids]


@pytest.mark.parametrize(
    ("latest", "hottest_c"),
    [
        ({}, None),
        ({"temperature_pmic_c": 100.0, "temperature_ao_c": 90.0, "temperature_thermal_c": 88.0}, None),
        ({"temperature_gpu_c": 41.5, "temperature_cpu_c": 43.0, "temperature_tboard_c": 70.0}, 43.0),
        ({"temperature_tj_c": 60.0}, 60.0),
        ({"temperature_cpu0_c": 39.0, "temperature_gpu_2_c": 38.0}, 39.0),
        ({"clock_gpu_hz": 921600000.0, "temperature_x_gpu_c": 99.0}, None),
        ({"temperature_gpu_c": 0.0}, 0.0),
    ],
)
def test_hottest(latest, hottest_c):
    """Only the zones that compute count: the highest may be zero, and is None without any."""
    assert preflight.hottest_c(latest, HOT_ZONES) == hottest_c


def test_no_zones():
    """Without an expression for the zones that compute, no temperature counts and the gate is open."""
    latest = {"temperature_gpu_c": 99.0}

    assert preflight.hottest_c(latest, "") is None
    assert preflight.Gate(60.0, "").is_open(latest)


@pytest.mark.parametrize(("temperature_c", "cool"), [(59.9, True), (60.0, False), (61.0, False), (None, True)])
def test_gate(temperature_c, cool):
    """The board may start below the gate but not at it, and also at an unknown temperature."""
    latest = {} if temperature_c is None else {"temperature_gpu_c": temperature_c}

    assert preflight.Gate(60.0, HOT_ZONES).is_open(latest) is cool


def test_too_hot():
    """A board that did not cool down is a soft finding with both temperatures and the waiting time."""
    latest = {"temperature_gpu_c": 71.25, "temperature_cpu_c": 66.0}

    assert preflight.Gate(60.0, HOT_ZONES).too_hot(latest, 300.04) == Finding(
        "temperature", "soft", "started at 71.2 °C, which is above the gate of 60 °C, after waiting 300 s"
    )


def test_enough_memory(tmp_path):
    """Three times the file is enough memory, and unknown memory refuses nothing."""
    model = tmp_path / "model"
    model.write_bytes(b"x" * 1000)

    preflight.require_memory(str(model), 3000)
    preflight.require_memory(str(model), None)


def test_too_little_memory(tmp_path):
    """Less than three times the file is refused, with both numbers and what to do."""
    model = tmp_path / "model"
    with model.open("wb") as stream:
        stream.truncate(100 << 20)

    with pytest.raises(RunFailedError) as refused:
        preflight.require_memory(str(model), (300 << 20) - 1)

    assert refused.value.failure_type == "refused"
    assert str(refused.value) == (
        "the board has 300 MiB of memory left and 300 MiB are needed (3 times the file to load); end other programs "
        "there, or take a smaller model"
    )


@pytest.mark.parametrize(
    ("gpu", "findings"),
    [
        (None, [Finding("gpu_processes", "info", "there is no NVML here to list them")]),
        (Gpu(), []),
        (Gpu(None), [Finding("gpu_processes", "info", "the driver does not list them")]),
        (Gpu(7), []),
        (Gpu(7, 8), [Finding("gpu_processes", "invalid", "other processes on the GPU before measuring: 8")]),
        (Gpu(9, 8), [Finding("gpu_processes", "invalid", "other processes on the GPU before measuring: 9, 8")]),
        (
            Gpu(error=SensorError("nvml gpu 0 nvmlDeviceGetComputeRunningProcesses", "insufficient permissions")),
            [
                Finding(
                    "gpu_processes",
                    "info",
                    "nvml gpu 0 nvmlDeviceGetComputeRunningProcesses: insufficient permissions",
                )
            ],
        ),
    ],
    ids=["no GPU", "nobody", "no list", "itself", "another", "two others", "unknown"],
)
def test_gpu_neighbours(gpu, findings):
    """Other processes on the GPU make a result invalid and are named by pid, an unknown list does not."""
    assert preflight.gpu_neighbours(gpu, [7], "before") == findings
