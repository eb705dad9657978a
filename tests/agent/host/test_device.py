"""The facts about a board, read from captured trees."""

import sys
from pathlib import Path

import pytest
from efficientquant_agent.backends.__main__ import find_in_child
from efficientquant_agent.host.device import DeviceFiles, computing_gpu, discrete_gpu, precisions, runtimes
from efficientquant_agent.records import Gpu

BOARDS = Path(__file__).parent.parent.parent / "fixtures" / "boards"
NANO = {
    "proc/device-tree/serial-number": "1422919082257\x00",
    "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\x00",
    "proc/sys/kernel/osrelease": "4.9.337-tegra\n",
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nprocessor\t: 1\n",
    "proc/meminfo": "MemTotal:        4059220 kB\nSwapTotal:             0 kB\n",
    "etc/nv_tegra_release": "# R32 (release), REVISION: 7.4, GCID: 33514132, BOARD: t210ref, EABI: aarch64\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 18.04.6 LTS"\n',
    "etc/machine-id": "0123456789abcdef\n",
}


@pytest.fixture
def probe_of(tmp_path):
    """Return a function that makes a probe of a tree with these files and nothing else."""

    def build(files):
        for name, content in files.items():
            path = Path(str(tmp_path), name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return DeviceFiles.of_tree(str(tmp_path))

    return build


def test_jetson(probe_of):
    """A Jetson is known by its serial number, its model and its L4T release."""
    device = probe_of(NANO).snapshot({}, [])

    assert device.board_id == "1422919082257"
    assert device.board == "NVIDIA Jetson Nano Developer Kit"
    assert (device.l4t, device.os, device.kernel) == ("R32.7.4", "Ubuntu 18.04.6 LTS", "4.9.337-tegra")
    assert (device.cpu_model, device.cpu_count) == ("ARMv8 Processor rev 1 (v8l)", 2)
    assert (device.memory_total_bytes, device.swap_total_bytes) == (4059220 * 1024, 0)


def test_board_without_a_serial_number(probe_of):
    """A machine without a serial number is known by its machine id."""
    assert probe_of({"etc/machine-id": "0123456789abcdef\n"}).board_id() == "0123456789abcdef"


@pytest.mark.parametrize(
    ("board", "products"),
    [
        ("x86", []),  # Zen 3: AVX2 alone
        ("epyc-zen4", ["vnni"]),
        ("xeon-sapphire-rapids", ["vnni", "amx"]),
        ("nano-r32.7.4", []),
        ("agx-xavier-r35.4.1", []),
        ("orin-nano-r36.3", ["dotprod"]),
        ("neoverse-v2", ["dotprod", "i8mm"]),
    ],
)
def test_dot_products_of_a_cpu(board, products):
    """The CPU's dot products of 8-bit integers come from its flags."""
    assert DeviceFiles.of_tree(str(BOARDS / board)).snapshot({}, []).cpu_dot_products == products


@pytest.mark.parametrize(
    ("cpuinfo", "products"),
    [
        ("flags\t: avx2 avx_vnni\nflags\t: avx2 avx_vnni\n", ["vnni"]),
        ("Features\t: asimd asimddp i8mm\nFeatures\t: asimd asimddp\n", ["dotprod"]),
        ("Features\t: asimd\nFeatures\t: asimd asimddp\n", []),
        ("vmx flags\t: vnmi\nflags\t: avx2 avx512_vnnix\n", []),
        ("", []),
    ],
)
def test_a_dot_product_counts_where_every_core_has_it(probe_of, cpuinfo, products):
    """A run may move to any core, so all of them need the instruction."""
    assert probe_of({"proc/cpuinfo": cpuinfo}).cpu_dot_products() == products


def test_nothing_to_be_found(probe_of, monkeypatch):
    """What a probe does not find is None or empty, never zero and never a guess."""
    monkeypatch.setattr("socket.gethostname", lambda: "bench-1")

    device = probe_of({}).snapshot({}, [])

    assert device.board_id == "host:bench-1"
    assert (device.memory_total_bytes, device.swap_total_bytes) == (None, None)
    assert (device.l4t, device.board, device.cpu_model, device.os) == ("", "", "", "")
    assert device.cpu_dot_products == []


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({"usr/local/cuda/version.json": '{"cuda" : {"name" : "CUDA SDK", "version" : "12.6.68"}}'}, "12.6.68"),
        ({"usr/local/cuda/version.txt": "CUDA Version 10.2.300\n"}, "10.2.300"),
        ({"usr/local/cuda/version.json": "{}"}, ""),
        ({}, ""),
    ],
)
def test_cuda_toolkit(files, version, probe_of):
    """A toolkit's release comes from its own version file."""
    assert probe_of(files).cuda_toolkit() == version


@pytest.mark.parametrize(
    ("release", "l4t", "jetpack"),
    [
        ("# R32 (release), REVISION: 6.1, GCID: 27863751, BOARD: t210ref, EABI: aarch64", "R32.6.1", "4.6"),
        ("# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64", "R32.7.1", "4.6.1"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64", "R35.4.1", "5.1.2"),
        ("# R36 (release), REVISION: 3.0, GCID: 36191598, BOARD: generic, EABI: aarch64", "R36.3.0", "6.0"),
        ("# R99 (release), REVISION: 1.0, GCID: 1, BOARD: generic, EABI: aarch64", "R99.1.0", ""),
        ("R32", "", ""),
    ],
)
def test_jetpack(release, l4t, jetpack, probe_of):
    """JetPack's release follows from that of Linux for Tegra, and an unknown one stays unknown."""
    device = probe_of({"etc/nv_tegra_release": release + "\n"}).snapshot({}, [])

    assert (device.l4t, device.jetpack) == (l4t, jetpack)


@pytest.mark.parametrize(
    ("compatible", "soc", "name", "capability", "precisions"),
    [
        ("nvidia,p3450-0000\x00nvidia,tegra210\x00", "tegra210", "Tegra X1", 53, (True, False, False)),
        ("nvidia,p2771-0000\x00nvidia,tegra186\x00", "tegra186", "Tegra X2", 62, (True, False, False)),
        ("nvidia,galen\x00nvidia,tegra194\x00", "tegra194", "Xavier", 72, (True, True, False)),
        ("nvidia,p3768-0000+p3767-0005\x00nvidia,tegra234\x00", "tegra234", "Orin", 87, (True, True, True)),
    ],
)
def test_gpu_of_a_jetson(compatible, soc, name, capability, precisions, probe_of):
    """Without CUDA a Jetson's GPU is known by its system on chip, and shares the board's memory."""
    probe = probe_of({"proc/device-tree/compatible": compatible, "proc/meminfo": NANO["proc/meminfo"]})

    (gpu,) = probe.gpus()

    assert probe.soc() == soc
    assert gpu == Gpu(name, "", capability, 4059220 * 1024, True, *precisions, driver_version="")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        (0, (False, False, False)),
        (52, (False, False, False)),
        (53, (True, False, False)),
        (60, (True, False, False)),
        (61, (False, True, False)),
        (62, (True, False, False)),
        (70, (True, True, False)),
        (72, (True, True, False)),
        (75, (True, True, False)),
        (80, (True, True, True)),
        (86, (True, True, True)),
        (120, (True, True, True)),
    ],
)
def test_precisions(capability, expected):
    """What a GPU computes fast follows from its compute capability alone, never from a name."""
    assert precisions(capability) == expected


PC = {
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15\n",
    "proc/driver/nvidia/gpus/0000:01:00.0/information": (
        "Model: \t\t NVIDIA GeForce RTX 3080\nIRQ:   \t\t 168\n"
        "GPU UUID: \t GPU-1b2c3d4e-0001-0002-0003-0123456789ab\nVideo BIOS: \t 94.02.42.40.3b\n"
    ),
}


def test_gpu_of_the_driver(probe_of):
    """A discrete GPU that CUDA does not see is named by its driver, with unknown capability."""
    assert probe_of(PC).gpus() == [
        Gpu(
            name="NVIDIA GeForce RTX 3080",
            uuid="GPU-1b2c3d4e-0001-0002-0003-0123456789ab",
            compute_capability=0,
            memory_total_bytes=None,
            integrated=False,
            fp16=False,
            int8=False,
            tf32=False,
            driver_version="535.104.05",
        )
    ]


def test_gpu_of_the_driver_below_a_relative_root(probe_of, tmp_path, monkeypatch):
    """A board's root may be a relative path."""
    probe_of(PC)
    monkeypatch.chdir(str(tmp_path.parent))

    assert [gpu.name for gpu in DeviceFiles.of_tree(tmp_path.name).gpus()] == ["NVIDIA GeForce RTX 3080"]


def test_gpu_of_cuda(probe_of):
    """CUDA's facts about a GPU come before all others."""
    seen = {
        "name": "NVIDIA GeForce RTX 3080",
        "uuid": "GPU-1b2c3d4e-0001-0002-0003-0123456789ab",
        "compute_capability": 86,
        "memory_total_bytes": 10501423104,
    }

    device = probe_of(PC).snapshot({}, [], gpus=[seen], cuda_version="12.2", clock_control="helper")

    assert device.gpus == [Gpu(seen["name"], seen["uuid"], 86, 10501423104, False, True, True, True, "535.104.05")]
    assert (device.cuda_version, device.clock_control) == ("12.2", "helper")


def test_open_kernel_module(probe_of):
    """The driver's version is read from the open kernel module's wording, too."""
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (root@host)  Mon\n"

    assert probe_of({"proc/driver/nvidia/version": text}).driver_version() == "570.86.15"


def test_power_mode_and_clocks(probe_of):
    """The power mode comes with its name, and the clocks with what that mode allows."""
    gpu, cpu = "sys/class/devfreq/57000000.gpu/", "sys/devices/system/cpu/cpu{}/cpufreq/scaling_"
    files = {
        "var/lib/nvpmodel/status": "pmode:0001 fmode:quiet\n",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=5W >\n",
        gpu + "cur_freq": "76800000\n",
        gpu + "min_freq": "76800000\n",
        gpu + "max_freq": "640000000\n",
    }
    for core, limit in ((0, "918000\n"), (1, "1190400\n")):
        files.update({cpu.format(core) + name + "_freq": limit for name in ("cur", "min", "max")})
    probe = probe_of(files)

    assert probe.power_mode() == "5W"
    assert probe.max_clocks_hz() == {"gpu": 640000000, "cpu": 1190400000}


def test_no_power_modes(probe_of):
    """A machine without nvpmodel has no power mode, and without cpufreq no clocks."""
    assert (probe_of({}).power_mode(), probe_of({}).max_clocks_hz(), probe_of({}).gpus()) == ("", {}, [])


def test_runtimes_that_never_answer():
    """A runtime that hangs while it loads is reported after a bounded time."""
    assert runtimes(timeout_s=0.0).broken == ["looking for runtimes took longer than 0 s"]


@pytest.fixture
def looking_runs(monkeypatch, tmp_path):
    """Return a function that replaces the process that looks for runtimes by this code."""

    def replace(code):
        script = tmp_path / "python"
        (tmp_path / "code.py").write_text(code)
        script.write_text('#!/bin/sh\nexec "{}" "{}" "$@"\n'.format(sys.executable, tmp_path / "code.py"))
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return replace


# The children of the process that looks run the same code, which is their sys.executable.
TALKATIVE = """
import atexit, os, runpy, sys
sys.executable = os.path.join(os.path.dirname(sys.argv[0]), "python")
del sys.argv[1:3]  # -m and the module
runtimes = ["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"]
sys.modules.update(dict.fromkeys(["numpy"] + runtimes))
os.environ.pop("PYTHONWARNINGS", None)
from efficientquant_agent.backends import ort
really = ort.BACKENDS[0].probe
ort.BACKENDS[0].probe = lambda: print("loading") or os.write(1, b"[I] loaded") and really()
atexit.register(os.write, 1, b"[I] freed\\n")
atexit.register(print, "bye")
runpy.run_module("efficientquant_agent.backends", run_name="__main__")
"""


def test_runtimes_that_talk(looking_runs):
    """What a runtime prints while it loads or when its process ends does not disturb the answer."""
    looking_runs(TALKATIVE)

    answer = runtimes()

    assert (list(answer.library_versions), answer.backends, answer.broken) == (["python"], [], [])


CRASHING = """
import os, runpy, signal, sys
sys.executable = os.path.join(os.path.dirname(sys.argv[0]), "python")
del sys.argv[1:3]  # -m and the module
part = sys.argv[1:]
if part == {part!r}:
    sys.stderr.write("terminate called\\n")
    {fate}
sys.modules.update(dict.fromkeys(["tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"]))
runpy.run_module("efficientquant_agent.backends", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("fate", "sentence", "cause"),
    [
        ("os.abort()", "backend 'trt' crashes: SIGABRT ended its probe (terminate called)", "crash"),
        ("os.kill(os.getpid(), 11)", "backend 'trt' crashes: SIGSEGV ended its probe (terminate called)", "crash"),
        ("os.kill(os.getpid(), 4)", "backend 'trt' crashes: SIGILL ended its probe (terminate called)", "SIGILL"),
        ("os._exit(3)", "backend 'trt' gives no answer: its probe ended with code 3 (terminate called)", "crash"),
    ],
)
def test_runtime_that_crashes(looking_runs, fate, sentence, cause):
    """A runtime that crashes while it is probed is named, and the others are found."""
    looking_runs(CRASHING.format(part=["trt"], fate=fate))

    answer = runtimes()

    assert (answer.broken, answer.broken_causes) == ([sentence], [cause])
    assert "ort-cpu" in [backend.name for backend in answer.backends]


def test_cuda_that_crashes(looking_runs):
    """A CUDA library that crashes is named, and runtimes of the CPU are found."""
    looking_runs(CRASHING.format(part=["gpus"], fate="os.abort()"))

    answer = runtimes()

    assert answer.broken == ["CUDA crashes: SIGABRT ended its probe (terminate called)"]
    assert answer.cuda_error == answer.broken[0]
    assert "ort-cpu" in [backend.name for backend in answer.backends]


def test_runtime_that_hangs(looking_runs):
    """A runtime that hangs while it is probed is named after a bounded time."""
    looking_runs(CRASHING.format(part=["trt"], fate="signal.pause()"))

    assert find_in_child("trt", timeout_s=1.0) == {
        "broken": ["backend 'trt' hangs: its probe took longer than 1 s"],
        "broken_causes": ["timeout"],
    }


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("", "nothing"),
        ("print('{')", "{"),
        ("print('[]')", "[]"),
        ("print('{}')", "{}"),
        ("print('one'); print('two')", "two"),
        ("import os; os.write(1, bytes([255]))", "\ufffd"),
        ('print(\'{"library_versions": {}, "backends": [1]}\')', '{"library_versions": {}, "backends": [1]}'),
    ],
)
def test_runtimes_without_an_answer(code, said, looking_runs):
    """An answer that cannot be read becomes a sentence, and no runtimes."""
    looking_runs(code)

    assert runtimes().broken == ["looking for runtimes gave no answer that can be read, but: " + said]


TEGRA = Gpu("Orin", "", 87, None, True, True, True, True, "")
RTX = Gpu("RTX 3080", "GPU-1", 86, None, False, True, True, True, "")
OTHER = RTX._replace(uuid="GPU-2")


@pytest.mark.parametrize(
    ("gpus", "computing", "discrete"),
    [((), None, None), ((TEGRA,), TEGRA, None), ((RTX, OTHER), RTX, RTX), ((TEGRA, RTX), TEGRA, None)],
)
def test_one_gpu_computes(gpus, computing, discrete):
    """Runtimes compute on CUDA's first GPU, and NVML watches and locks it if it is discrete."""
    assert (computing_gpu(gpus), discrete_gpu(gpus)) == (computing, discrete)
