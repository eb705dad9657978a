"""The fixes for problems of a runtime, on this board and with this Python."""

import pytest
from efficientquant_agent.doctor import command
from efficientquant_agent.doctor.diagnosis import diagnose
from efficientquant_agent.doctor.facts import Facts
from efficientquant_agent.records import BackendInfo, Gpu

ORT = BackendInfo("ort-cpu", "1.10.0", ["CPUExecutionProvider"])
NANO_GPU = Gpu("Tegra X1", "", 53, 4156641280, True, True, False, False, "")
RTX_3080 = Gpu("NVIDIA GeForce RTX 3080", "GPU-1b2c3d4e", 86, 10501423104, False, True, True, True, "535.104.05")
NANO = Facts(soc="tegra210", l4t="R32.7.4", gpus=[NANO_GPU], backends=[ORT], python="/opt/eq/bin/python3")
PC = Facts(gpus=[RTX_3080], backends=[ORT], python="/opt/eq/bin/python3", cuda_version="13.0", in_venv=True)
NO_GPU = PC._replace(gpus=[])
TRT = "backend 'trt' does not work here: TensorRT 10.13 is installed, but"
PIP = "/opt/eq/bin/python3 -m pip install "


def fix_of(problem_id, facts):
    return next(problem.fix for problem in diagnose(facts) if problem.id == problem_id)


@pytest.mark.parametrize(
    ("facts", "cause", "fix"),
    [
        (PC, "cudaErrorInsufficientDriver", "update NVIDIA's driver 535.104.05 to one for CUDA 13.0 or newer"),
        (NANO, "cudaErrorInsufficientDriver", "a Jetson's driver comes with JetPack"),
        (NO_GPU, "cudaErrorInsufficientDriver", "with an NVIDIA GPU in this machine, install its driver"),
        (NO_GPU, "cudaErrorNoDevice", "with an NVIDIA GPU in this machine, install its driver"),
        (PC, "cudaErrorSystemDriverMismatch", "restart the machine"),
        (PC, "cudaErrorECCUncorrectable", "look at nvidia-smi"),
        (PC, "libcudart", PIP + "nvidia-cuda-runtime-cu12"),
        (NANO, "libcudart", "sudo apt install nvidia-jetpack"),
        (PC, "ModuleNotFoundError: numpy", PIP + "numpy"),
        (PC._replace(prefix_writable=False), "ModuleNotFoundError: numpy", "sudo " + PIP + "numpy"),
        (PC, "UnsupportedGpuError", "nothing is to be mended"),
        (PC, "RuntimeTooOldError", PIP + "--upgrade tensorrt"),
        (NANO, "RuntimeTooOldError", "upgrade to JetPack 4.6.1 or newer"),
        (PC, "ImportError", "install it again, with its libraries of the same release: " + PIP),
        (NANO, "ImportError", "install JetPack's TensorRT: sudo apt install --reinstall python3-libnvinfer"),
        (PC, "SIGILL", "export OPENBLAS_CORETYPE=ARMV8"),
        (PC, "crash", "/opt/eq/bin/python3 -X faulthandler -m efficientquant_agent.backends trt shows where"),
        (PC, "", "install it again"),
    ],
)
def test_fix_of_a_broken_runtime(facts, cause, fix):
    """The fix for a broken runtime follows from its error, and is never pip for a Jetson's TensorRT."""
    facts = facts._replace(broken=[TRT + " …"], broken_causes=[cause])

    assert fix_of("backend_broken", facts).startswith(fix)


def test_pycuda_that_cannot_be_used():
    """A broken pycuda is a note, because libcudart takes its place."""
    facts = PC._replace(pycuda_error="pycuda 2019.1.2 does not load: libcurand.so.10", backends=[ORT])

    (problem,) = [problem for problem in diagnose(facts) if problem.id == "pycuda_unused"]

    assert (problem.severity, problem.sentence) == (
        "info",
        "pycuda 2019.1.2 does not load: libcurand.so.10: TensorRT runs with libcudart instead",
    )


def test_pycuda_that_crashes():
    """A pycuda that ends every run is a problem, and its fix names its own probe."""
    sentence = "pycuda crashes: SIGABRT ended its probe (no message); so does every run with TensorRT"

    fix = fix_of("backend_broken", PC._replace(broken=[sentence], broken_causes=["crash"]))

    assert fix.startswith("/opt/eq/bin/python3 -X faulthandler -m efficientquant_agent.backends pycuda shows where")


@pytest.mark.parametrize("facts", [NANO, PC, NO_GPU])
def test_a_driver_is_mended_as_a_driver(facts):
    """A driver that is too old is no reason to install the runtime again."""
    facts = facts._replace(broken=[TRT + " …"], broken_causes=["cudaErrorInsufficientDriver"])

    assert all("pip" not in problem.fix for problem in diagnose(facts) if problem.id == "backend_broken")


@pytest.mark.parametrize(
    ("facts", "fix"),
    [
        (NANO, "install JetPack's TensorRT: sudo apt install --reinstall python3-libnvinfer"),
        (PC, "update NVIDIA's driver 535.104.05 to 580 or newer (CUDA 13), restart, then " + PIP + "tensorrt numpy"),
        (
            PC._replace(gpus=[RTX_3080._replace(driver_version="580.65.06")]),
            "install TensorRT: " + PIP + "tensorrt numpy",
        ),
        (PC._replace(cuda_error="cudaErrorInsufficientDriver (35): …"), "update NVIDIA's driver 535.104.05 to one for"),
        (
            PC._replace(gpus=[RTX_3080._replace(compute_capability=61)]),
            "install a release of TensorRT that supports SM 6.1",
        ),
        (PC._replace(broken=["x"]), "mend what the problems about its runtimes name"),
        (
            PC._replace(system_tensorrt=["/usr/lib/python3.6/dist-packages/tensorrt"], python_version="3.8.1"),
            "mend what",
        ),
    ],
)
def test_fix_of_an_unused_gpu(facts, fix):
    """The fix for an unused GPU fits its board, driver and SM, or mends a broken or hidden runtime."""
    assert fix_of("gpu_unused", facts).startswith(fix)


def test_tensorrt_for_another_python():
    """The environment is made with the Python that TensorRT is installed for."""
    facts = NANO._replace(system_tensorrt=["/usr/lib/python3.6/dist-packages/tensorrt"], python_version="3.8.1")

    assert "/usr/bin/python3.6 -m venv --system-site-packages DIR" in fix_of("tensorrt_other_python", facts)


def test_nothing_can_run():
    """Without any backend the fix is a command for the agent's own Python, from packages that an index has."""
    fix = fix_of("no_backend", NO_GPU._replace(backends=[]))

    assert fix == "for ONNX Runtime on the CPU: " + PIP + "onnxruntime numpy"


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (
            {"cuda_library": "/usr/lib/libcudart.so.13"},
            [
                "GPU                   none",
                "CUDA runtime          13.0 (/usr/lib/libcudart.so.13); the library is here, and no GPU answers it",
                "CUDA of the driver    none: no NVIDIA driver is loaded",
            ],
        ),
        (
            {"cuda_version": "", "cuda_toolkit": "12.4"},
            ["CUDA toolkit          12.4 (in /usr/local/cuda, for compiling)"],
        ),
        ({"gpus": [RTX_3080], "cuda_driver_version": "12.2"}, ["CUDA of the driver    up to 12.2"]),
    ],
)
def test_which_cuda(change, rows):
    """The table names the CUDA versions of library, driver and toolkit apart."""
    lines = command.as_text(NO_GPU._replace(**change), []).splitlines()

    assert [line for line in rows if line not in lines] == []
