"""The tests of `make gpu-check` in real processes, with doubles of NVML."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gpu_check import bounded, command

ROOT = Path(__file__).parent.parent.parent.parent
SCRIPT = ROOT / "tests" / "gpu" / "check.py"
DOUBLES = ROOT / "tests" / "fixtures" / "doubles" / "nvml"
HANG = "import pynvml_double, threading\nfrom pynvml_double import *\n{} = lambda *_: threading.Event().wait()\n"
CRASH = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"


@pytest.fixture
def environment(tmp_path):
    """Return an environment without a GPU.

    Modules that a test writes into `modules` come before the installed ones.
    """
    return environment_in(tmp_path)


@pytest.fixture
def with_gpu(environment, tmp_path):
    """Give a function that lets NVML show a GPU.

    `source` is the module pynvml, by default the double itself.
    """
    return functools.partial(install_gpu, environment, tmp_path)


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """Return exit code, output and errors of a run that crashes.

    ONNX Runtime crashes, and the report cannot be written.
    """
    folder = tmp_path_factory.mktemp("crashed")
    environment = install_gpu(environment_in(folder), folder)
    (folder / "modules" / "onnxruntime.py").write_text(CRASH)
    (folder / "file").write_text("")
    return run(environment, "--reports", str(folder / "file" / "reports"))


def environment_in(folder):
    (folder / "modules").mkdir()
    return dict(os.environ, CUDA_VISIBLE_DEVICES="", PATH="/usr/bin:/bin", PYTHONPATH=str(folder / "modules"))


def install_gpu(environment, folder, source="from pynvml_double import *\n"):
    (folder / "modules" / "pynvml_double.py").write_text((DOUBLES / "pynvml.py").read_text())
    (folder / "modules" / "pynvml.py").write_text(source)
    (folder / "gpu.json").write_text("{}")
    return dict(environment, PYNVML_DOUBLE=str(folder / "gpu.json"))


def run(environment, *arguments, script=(sys.executable, str(SCRIPT))):
    done = subprocess.run(
        list(script) + list(arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, timeout=120
    )
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def reports(folder):
    return [path.read_text(encoding="utf-8") for path in folder.glob("????-??-??-nvidia-geforce-rtx-3080.md")]


def test_without_a_gpu(environment, tmp_path):
    """Without a GPU it says so in one sentence, writes nothing and exits with 2."""
    code, out, err = run(environment, "--reports", str(tmp_path / "reports"))

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("gpu-check needs an NVIDIA GPU, and neither CUDA, NVML nor nvidia-smi shows one here (CUDA: ")
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("numpy", "said"),
    [
        ("raise ModuleNotFoundError(\"No module named 'numpy'\", name='numpy')", "No module named 'numpy'"),
        ("raise ImportError('libopenblas is missing')", "libopenblas is missing"),
        ("import os\nos.kill(os.getpid(), 4)", "by SIGILL"),
    ],
)
def test_without_numpy(with_gpu, tmp_path, numpy, said):
    """A missing or broken numpy is one sentence with the fix, and exit code 2."""
    (tmp_path / "modules" / "numpy.py").write_text(numpy)

    code, out, err = run(with_gpu(), "--reports", str(tmp_path / "reports"))

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("gpu-check needs numpy, which ")
    assert said in err
    assert "-m pip install numpy" in err
    assert not (tmp_path / "reports").exists()


def test_with_a_gpu_that_only_nvml_shows(with_gpu, tmp_path):
    """Installed parts are checked, missing parts are rows, and the report is named for day and GPU."""
    code, out, err = run(with_gpu(), "--reports", str(tmp_path))

    (report,) = reports(tmp_path)
    assert "| NVML: temperature_gpu_c | ok | 55.0 and 55.0, nvidia-smi was not asked |" in report
    assert "| ONNX Runtime CUDA | absent |" in report
    assert "driver 550.90.07" in report
    assert ("| FAILED |" in report, err) == (code == 1, "")
    assert out.strip().splitlines()[-1].endswith(".md")


def test_a_check_that_hangs(with_gpu):
    """A check that hangs is ended, and the error says after how long."""
    environment = with_gpu(HANG.format("nvmlInit"))
    environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], *filter(None, sys.path)])

    with pytest.raises(bounded.ChildError, match="it hung and was ended after 2 s"):
        list(bounded.messages(["check", "NVML"], 1.6, environment))


def test_a_check_that_crashes(crashed):
    """A crash of a check is its failure, and the other checks go on."""
    code, out, _ = crashed

    assert code == 1
    assert "| ONNX Runtime CUDA | FAILED | after its start: its process ended by SIGSEGV: " in out
    assert "| ONNX Runtime TensorRT | FAILED |" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c(with_gpu, tmp_path, number):
    """An interrupted run exits at once with 130, and its report says what was not run."""
    environment = with_gpu(HANG.format("nvmlDeviceGetClockInfo"))
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--reports", str(tmp_path)], stdout=subprocess.PIPE, env=environment
    )
    while b"checking    NVML" not in process.stdout.readline():
        pass

    process.send_signal(number)
    out, _ = process.communicate(timeout=60)

    (report,) = reports(tmp_path)
    assert process.returncode == 130
    assert "| Packages: numpy | ok |" in report
    assert "| NVML | not run | the checks were interrupted |" in report
    assert "| ONNX Runtime TensorRT | not run |" in report
    assert b"Traceback" not in out


def test_a_folder_that_takes_no_report(crashed):
    """A report that cannot be written is printed, after one sentence."""
    _, out, err = crashed

    assert "| NVML: temperature_gpu_c | ok |" in out
    assert (err.startswith("gpu-check: the report cannot be written ("), err.count("\n")) == (True, 1)


def test_a_reader_that_goes_away(with_gpu, tmp_path):
    """A reader that exits, such as `head`, does not stop the checks or the report."""
    script = ("sh", "-c", '"$0" "$@" | head -n 1', sys.executable, str(SCRIPT))

    _, out, err = run(with_gpu(), "--reports", str(tmp_path), script=script)

    assert (out.count("\n"), err, len(reports(tmp_path))) == (1, "", 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seconds", "5"], "5 is no number of seconds from 30 to 3600"),
        (["--seconds", "many"], "many is no number of seconds"),
        (["--reports"], "expected one argument"),
        (["everything"], "unrecognized arguments: everything"),
    ],
)
def test_what_cannot_be_meant(environment, arguments, said):
    """A wrong argument is one sentence, with exit code 2."""
    code, out, err = run(environment, *arguments)

    assert (code, out, err.count("\n"), said in err) == (2, "", 1, True)


def test_no_time_is_left(monkeypatch):
    """A check without any time left fails with a sentence, and starts no process."""
    monkeypatch.setattr(bounded, "messages", None)

    (row,) = command._rows("NVML", 0.1, {})

    assert (row.outcome, row.seen) == ("FAILED", "no time was left for it; --seconds gives more")


def test_the_target_needs_no_environment(environment):
    """`make gpu-check` makes no virtual environment, and says when its Python does not start."""
    make = ("make", "--no-print-directory", "-C", str(ROOT), "gpu-check")

    _, commands, _ = run(environment, script=(*make, "-n"))
    code, _, err = run(environment, script=(*make, "PYTHON=/nowhere/python"))

    assert (".venv" in commands, "python3 tests/gpu/check.py" in commands) == (False, True)
    assert (code, err.splitlines()[0]) == (
        2,
        "gpu-check needs Python 3.6 or newer, and /nowhere/python does not start; pass PYTHON=/path/to/python",
    )
