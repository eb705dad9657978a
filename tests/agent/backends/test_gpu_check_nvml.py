"""The tests of comparing NVML's sampler with nvidia-smi, by doubles of both."""

import json
import sys
import time
from pathlib import Path

import pytest
from efficientquant_agent.samplers import nvml
from gpu_check import nvml_readings
from gpu_check.rows import ABSENT, FAILED, OK, rows_of

DOUBLES = Path(__file__).parent.parent.parent / "fixtures" / "doubles" / "nvml"
# The readings of NVML's double, in the format of nvidia-smi.
SMI = {
    "memory.used": "1152",
    "power.draw.instant": "98.00",
    "power.draw": "97.12",
    "clocks.gr": "1710",
    "clocks.mem": "9501",
    "utilization.gpu": "93",
    "temperature.gpu": "55",
    "clocks_event_reasons.active": "0x0000000000000000",
}


@pytest.fixture
def check(monkeypatch, tmp_path):
    """Give a function that runs the check with given readings.

    None for `smi` is a machine without nvidia-smi.
    """
    monkeypatch.syspath_prepend(str(DOUBLES))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setenv("PYNVML_DOUBLE", str(tmp_path / "gpu.json"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(nvml_readings, "ENERGY_S", 0.01)
    (tmp_path / "bin").mkdir()

    def run(smi, **gpu):
        (tmp_path / "gpu.json").write_text(json.dumps(gpu))
        if smi is not None:
            monkeypatch.setenv("SMI_DOUBLE", json.dumps(smi))
            command = tmp_path / "bin" / "nvidia-smi"
            command.write_text('#!/bin/sh\nexec "{}" "{}" "$@"\n'.format(sys.executable, DOUBLES / "nvidia_smi.py"))
            command.chmod(0o755)
        return {row.check: row for row in rows_of("NVML", nvml_readings.check)}

    yield run
    sys.modules.pop("pynvml", None)


def failed(rows):
    return [name for name, row in rows.items() if row.outcome == FAILED]


def test_both_say_the_same(check):
    """Each quantity agrees in SI units, and the energy counter rises by the power that is read."""
    rows = check(SMI)

    assert {row.outcome for row in rows.values()} == {OK}
    assert set(rows) >= {"NVML: " + name for name in nvml_readings.QUANTITIES}
    assert rows["NVML: clock_gpu_hz"].seen == "1710000000.0 and 1710000000.0, nvidia-smi 1710"
    # The counter's own figure depends on when this process was scheduled. The outcome above says that it agrees.
    assert rows["NVML: energy_gpu_j against power_gpu_w"].seen.endswith(" W by the counter, 98.0 to 98.0 W read")


@pytest.mark.parametrize(
    ("field", "said", "series"),
    [
        ("memory.used", "2304", "gpu_used_bytes"),
        ("power.draw.instant", "9.8", "power_gpu_w"),
        ("clocks.gr", "405", "clock_gpu_hz"),
        ("utilization.gpu", "9", "load_gpu"),
        ("temperature.gpu", "[N/A]", "temperature_gpu_c"),
        ("clocks_event_reasons.active", "0x0000000000000004", "throttle_bits"),
    ],
)
def test_a_difference_is_a_failure(check, field, said, series):
    """A quantity that nvidia-smi reports differently, or does not report, is the only failure."""
    assert failed(check(dict(SMI, **{field: said}))) == ["NVML: " + series]


def test_an_older_nvidia_smi(check):
    """Older field names are used where today's are refused, and a quantity without any is skipped."""
    old = {name: said for name, said in SMI.items() if not name.startswith(("power.draw.i", "clocks_event", "utiliz"))}
    rows = check(dict(old, **{"clocks_throttle_reasons.active": "0x0000000000000000"}))

    assert failed(rows) == []
    assert rows["NVML: power_gpu_w"].seen.endswith("nvidia-smi 97.12")
    assert rows["NVML: load_gpu"].seen.endswith("nvidia-smi was not asked")


def test_neither_has_it(check):
    """A quantity that neither NVML nor nvidia-smi has counts as agreeing."""
    rows = check(dict(SMI, **{"utilization.gpu": "[N/A]"}), errors={"nvmlDeviceGetUtilizationRates": 3})

    assert rows["NVML: load_gpu"].seen == "None and None, nvidia-smi [N/A]"
    assert failed(rows) == []


def test_a_sensor_that_fails(check):
    """An error of NVML fails its quantity only, and the others are compared."""
    assert failed(check(SMI, errors={"nvmlDeviceGetTemperature": 15})) == ["NVML: temperature_gpu_c"]


def test_a_power_that_the_counter_contradicts(monkeypatch):
    """Power in other units than the energy counter's is a failure."""
    monkeypatch.setattr(nvml_readings, "ENERGY_S", 0.01)
    counter = nvml.GpuQuantity("energy_gpu_j", lambda: time.monotonic() * 98e3)
    power = nvml.GpuQuantity("power_gpu_w", lambda: 98.0)

    seen = nvml_readings.energy({"energy_gpu_j": counter, "power_gpu_w": power})

    assert isinstance(seen, AssertionError)
    assert str(seen).endswith("W by the counter, 98.0 to 98.0 W read")


def test_without_nvidia_smi(check):
    """Without nvidia-smi the sampler's values are reported without a comparison."""
    rows = check(None)

    assert rows["NVML: nvidia-smi"].outcome == ABSENT
    assert rows["NVML: temperature_gpu_c"].seen == "55.0 and 55.0, nvidia-smi was not asked"
    assert failed(rows) == []


def test_the_gpu_of_cuda_is_asked(check, monkeypatch):
    """CUDA's GPU is read, and a GPU that NVML does not know is a failure."""
    monkeypatch.setenv("GPU_CHECK_UUID", "GPU-of-another-machine")

    assert failed(check(SMI)) == ["NVML"]
