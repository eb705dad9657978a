"""The doctor: facts from captured boards, every problem with its fix, JSON that programs can rely on."""

import json
from pathlib import Path

import pytest
from efficientquant_agent import __version__
from efficientquant_agent.backends.ort import OrtCpu
from efficientquant_agent.backends.trt import Tensorrt
from efficientquant_agent.doctor import command
from efficientquant_agent.doctor.diagnosis import Facts, Problem, can_run, diagnose
from efficientquant_agent.host.clocks import ClockControl
from efficientquant_agent.host.device import DeviceFiles, Runtimes
from efficientquant_agent.records import Gpu

BOARDS = Path(__file__).parent.parent.parent / "fixtures" / "boards"
ORT = OrtCpu.describe("1.10.0", ["CPUExecutionProvider"])
TRT = Tensorrt.describe("8.2.1.9", [])
NANO_GPU = Gpu("Tegra X1", "", 53, 4156641280, True, True, False, False, "")
RTX_3080 = Gpu("NVIDIA GeForce RTX 3080", "GPU-1b2c3d4e", 86, 10501423104, False, True, True, True, "535.104.05")
TOOLS = {
    "tegrastats": "/usr/bin/tegrastats",
    "nvpmodel": "/usr/sbin/nvpmodel",
    "jetson_clocks": "/usr/bin/jetson_clocks",
    "helper": "/usr/local/sbin/efficientquant-clocks",
}
# A Nano and a desktop that are set up as the README says.
NANO = Facts(
    board_id="1421619012345",
    soc="tegra210",
    l4t="R32.7.4",
    architecture="aarch64",
    memory_total_bytes=4156641280,
    swap_total_bytes=4 * 1024**3,
    gpus=[NANO_GPU],
    library_versions={"tensorrt": "8.2.1.9"},
    backends=[TRT, ORT],
    clocks="locked",
    clock_control="root",
    root_only={"emc_clock": "readable", "nvmap": "readable", "iram": "readable"},
    tools=TOOLS,
    python_version="3.6.9",
    in_venv=True,
    installed={"pip": "21.3.1", "numpy": "1.19.5", "onnxruntime": "1.10.0"},
    system_tensorrt=["/usr/lib/python3.6/dist-packages/tensorrt"],
    openblas_coretype="ARMV8",
    state_dir="/state",
    free_disk_bytes=20 * 1024**3,
)
PC = NANO._replace(
    soc="",
    l4t="",
    architecture="x86_64",
    gpus=[RTX_3080],
    tools={},
    root_only={},
    python_version="3.11.7",
    installed={"pip": "24.0", "nvidia-ml-py": "12.535.133"},
    system_tensorrt=[],
)


class Powerless(ClockControl):
    """A user who is not root, without the helper."""

    def access(self):
        """Return how clocks may be set."""
        return "none"


@pytest.fixture
def facts_of(tmp_path, monkeypatch):
    """Return a function that collects the facts of a captured board, without root."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    def collect(board, loaded=None, search_path=()):
        probe = DeviceFiles.of_tree(str(BOARDS / board))
        control = Powerless(probe.clock_paths())
        loaded = loaded or Runtimes({"onnxruntime": "1.10.0"}, [ORT], [])
        return command.collect(probe, loaded, str(tmp_path / "new/state"), {}, list(search_path), control)

    return collect


def test_facts_of_a_nano(facts_of, tmp_path):
    """The facts of a Nano come from its files."""
    facts = facts_of("nano-r32.7.4")

    of_this_python = dict.fromkeys(("architecture", "python_version", "python", "prefix"), "")
    assert facts._replace(in_venv=False, sees_system_packages=True, **of_this_python) == Facts(
        agent_version=__version__,
        board_id="1421619012345",
        board="NVIDIA Jetson Nano Developer Kit",
        soc="tegra210",
        l4t="R32.7.4",
        jetpack="4.6.4",
        os="Ubuntu 18.04.6 LTS",
        kernel="4.9.337-tegra",
        cpu_model="ARMv8 Processor rev 1 (v8l)",
        cpu_count=4,
        cpu_dot_products=[],
        cpu_max_hz=1479000000,
        gpu_max_hz=921600000,
        memory_total_bytes=4059220 * 1024,
        swap_total_bytes=facts.swap_total_bytes,
        gpus=[NANO_GPU._replace(memory_total_bytes=4059220 * 1024)],
        library_versions={"onnxruntime": "1.10.0"},
        backends=[ORT],
        broken=[],
        missing_modules=[],
        power_modes=[],
        clocks="free",
        clock_control="none",
        root_only={"emc_clock": "readable", "nvmap": "readable", "iram": "needs root"},
        tools=dict.fromkeys(TOOLS, ""),
        system_tensorrt=[],
        state_dir=str(tmp_path / "new/state"),
        free_disk_bytes=facts.free_disk_bytes,
    )
    assert facts.free_disk_bytes > 0


@pytest.mark.parametrize(
    ("board", "expected"),
    [
        (
            "nano-r32.7.4",
            [
                ("gpu_unused", "warning"),
                ("tegrastats_missing", "warning"),
                ("root_only", "info"),
                ("clocks_free", "info"),
            ],
        ),
        (
            "agx-xavier-r35.4.1",
            [
                ("gpu_unused", "warning"),
                ("tegrastats_missing", "warning"),
                ("root_only", "info"),
                ("clocks_free", "info"),
            ],
        ),
        (
            "orin-nano-r36.3",
            [
                ("gpu_unused", "warning"),
                ("tegrastats_missing", "warning"),
                ("root_only", "info"),
                ("clocks_free", "info"),
            ],
        ),
        ("x86", []),
    ],
)
def test_problems_of_captured_boards(board, expected, facts_of):
    """A board's problems follow from its files."""
    facts = facts_of(board)._replace(free_disk_bytes=None)

    assert [(problem.id, problem.severity) for problem in diagnose(facts)] == expected


def test_healthy():
    """A device that is set up as the README says has no problems."""
    assert (diagnose(NANO), diagnose(PC), can_run(NANO)) == ([], [], True)


HIDDEN = {"library_versions": {}, "backends": [ORT]}
CASES = [
    (NANO, {"installed": {"pip": "9.0.1"}}, ["warning pip_too_old"]),
    (PC, {"installed": {"pip": "19.2.3", "nvidia-ml-py": "12"}}, ["warning pip_too_old"]),
    (PC, {"installed": {"pip": "20.2.4", "nvidia-ml-py": "12"}}, []),
    (PC, {"missing_modules": ["grpc"]}, ["error modules_missing"]),
    (NANO, {"openblas_coretype": "NEOVERSEN1"}, ["warning openblas_coretype"]),
    (NANO, {"openblas_coretype": "CORTEXA57"}, []),
    (NANO, {"openblas_coretype": "NEOVERSEN1", "installed": {"numpy": "1.24.4"}}, []),
    (NANO, {"openblas_coretype": "NEOVERSEN1", "installed": {}}, []),
    (NANO, {"openblas_coretype": ""}, []),
    (NANO, dict(HIDDEN, sees_system_packages=False), ["error tensorrt_hidden", "warning gpu_unused"]),
    (NANO, dict(HIDDEN, python_version="3.8.0"), ["error tensorrt_other_python", "warning gpu_unused"]),
    (NANO, HIDDEN, ["warning gpu_unused"]),
    (NANO, {"library_versions": {"tensorrt": "8.0.1.6"}}, ["warning tensorrt_8_0"]),
    (NANO, {"l4t": "R32.6.1", "library_versions": {}}, ["warning tensorrt_8_0"]),
    (NANO, {"broken": ["backend 'trt' does not work here: no CUDA"]}, ["warning backend_broken"]),
    (NANO, {"backends": [], "broken": ["x"]}, ["error backend_broken", "error no_backend"]),
    (PC, {"backends": []}, ["error no_backend"]),
    (PC, {"backends": [ORT]}, ["warning gpu_unused"]),
    (PC, {"board_id": "host:bench-1"}, ["warning identity_unsure"]),
    (NANO, {"l4t": ""}, ["warning l4t_unknown"]),
    (NANO, {"tools": dict(TOOLS, tegrastats="")}, ["warning tegrastats_missing"]),
    (NANO, {"swap_total_bytes": 0}, ["warning swap_missing"]),
    (NANO, {"swap_total_bytes": None}, []),
    (NANO, {"swap_total_bytes": 0, "memory_total_bytes": 8 * 1024**3}, []),
    (PC, {"swap_total_bytes": 0}, []),
    (NANO, {"root_only": {"emc_clock": "needs root", "nvmap": "absent"}}, ["info root_only"]),
    (NANO, {"clock_control": "none"}, ["info clocks_not_settable"]),
    (PC, {"clock_control": "none"}, ["info clocks_not_settable"]),
    (PC, {"clock_control": "none", "gpus": []}, []),
    (NANO, {"clocks": "free"}, ["info clocks_free"]),
    (PC, {"installed": {}}, ["warning nvml_missing"]),
    (PC, {"installed": {"nvidia-ml-py": "12.535", "pynvml": "11.5.0"}}, ["warning pynvml_shadows"]),
    (PC, {"installed": {"nvidia-ml-py": "12.535", "pynvml": "12.0.0"}}, []),
    (NANO, {"state_dir_writable": False}, ["error state_dir_unusable"]),
    (NANO, {"free_disk_bytes": 1024**3}, ["warning disk_low"]),
]


@pytest.mark.parametrize(("healthy", "change", "expected"), CASES, ids=lambda value: str(value)[:40])
def test_each_problem(healthy, change, expected):
    """Each problem shows when, and only when, its own facts are there, and says how to fix it."""
    problems = diagnose(healthy._replace(**change))

    assert ["{} {}".format(problem.severity, problem.id) for problem in problems] == expected
    assert all(problem.sentence and problem.fix for problem in problems)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"swap_total_bytes": 0},
            Problem(
                "swap_missing",
                "warning",
                "3.9 GiB of memory and no swap: building an engine may be killed",
                "sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
                "sudo swapon /swapfile, and in /etc/fstab: /swapfile none swap sw 0 0",
            ),
        ),
        (
            dict(HIDDEN, sees_system_packages=False, gpus=[], prefix="/venv"),
            Problem(
                "tensorrt_hidden",
                "error",
                "TensorRT is in /usr/lib/python3.6/dist-packages/tensorrt, which this virtual environment does not see",
                "sed -i 's/^include-system-site-packages.*/include-system-site-packages = true/' /venv/pyvenv.cfg",
            ),
        ),
    ],
)
def test_sentences(change, problem):
    """A problem names what was found, and its fix can be typed."""
    assert diagnose(NANO._replace(**change)) == [problem]


def test_versions_without_loading(facts_of, tmp_path):
    """Versions come from the names of folders, so a numpy that dies on loading is still named."""
    for folder in ("numpy-1.19.5.dist-info", "nvidia_ml_py-12.535.133.dist-info", "onnxruntime_gpu-1.10.0.dist-info"):
        (tmp_path / "venv" / folder).mkdir(parents=True)
    for folder in ("numpy-1.13.3.egg-info", "pip-9.0.1-py3.6.egg-info", "numpydoc-1.0.dist-info"):
        (tmp_path / "system" / folder).mkdir(parents=True)

    facts = facts_of("x86", search_path=[str(tmp_path / "venv"), str(tmp_path / "system"), ""])

    assert facts.installed == {
        "numpy": "1.19.5",
        "nvidia-ml-py": "12.535.133",
        "onnxruntime-gpu": "1.10.0",
        "pip": "9.0.1",
    }


def test_what_only_root_can_read(tmp_path, closed_to_us):
    """A closed folder of debugfs hides whether a file exists, which counts as "needs root" too."""
    (tmp_path / "debug").mkdir()
    closed_to_us(tmp_path / "debug")

    assert command._readable([str(tmp_path / "debug/clk")]) == "needs root"


def test_denied_and_absent(tmp_path, monkeypatch):
    """Denied and absent are two answers."""

    def deny(path, _):
        raise PermissionError(path)

    assert command._readable([str(tmp_path / "none"), str(tmp_path / "nowhere")]) == "absent"
    monkeypatch.setattr("builtins.open", deny)
    assert command._readable([str(tmp_path / "none")]) == "needs root"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("include-system-site-packages = true\n", True), ("include-system-site-packages = false\n", False), (None, True)],
)
def test_system_packages(text, expected, tmp_path):
    """A virtual environment says itself whether it sees the system's packages."""
    if text:
        (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\n" + text)

    assert command._sees_system_packages(str(tmp_path)) is expected


def test_json_is_stable():
    """A key of the JSON may be added, but none may be removed without a new schema number."""
    answer = command.as_json(NANO._replace(swap_total_bytes=0), diagnose(NANO._replace(swap_total_bytes=0)))

    answer = json.loads(json.dumps(answer))
    assert sorted(answer) == ["can_run", "facts", "problems", "schema"]
    assert (answer["schema"], answer["can_run"]) == (1, True)
    assert sorted(answer["problems"][0]) == ["fix", "id", "sentence", "severity"]
    assert answer["facts"]["gpus"] == [
        {
            "name": "Tegra X1",
            "uuid": "",
            "compute_capability": 53,
            "memory_total_bytes": 4156641280,
            "integrated": True,
            "fp16": True,
            "int8": False,
            "tf32": False,
            "driver_version": "",
        }
    ]
    assert answer["facts"]["backends"][1] == {
        "name": "ort-cpu",
        "version": "1.10.0",
        "providers": ["CPUExecutionProvider"],
        "preference": 50,
        "uses_gpu": False,
        "builds_engines": False,
        "form": "onnxruntime",
        "opset": 13,
        "precision_flags": [],
        "options": [],
    }
    assert " ".join(sorted(answer["facts"])) == (
        "agent_version architecture backends board board_id broken broken_causes clock_control clocks controller "
        "cpu_count cpu_dot_products cpu_max_hz cpu_model cuda_driver_version cuda_error cuda_library cuda_toolkit "
        "cuda_version free_disk_bytes gpu_max_hz gpus in_venv installed jetpack kernel l4t library_versions "
        "memory_total_bytes "
        "missing_modules openblas_coretype os power_mode power_modes prefix prefix_writable pycuda_error python "
        "python_version root_only sees_system_packages soc state_dir state_dir_writable swap_total_bytes "
        "system_tensorrt tools"
    )


def test_text(facts_of):
    """The text has one line for each fact, then each problem with its fix below it."""
    facts = facts_of("agx-xavier-r35.4.1")._replace(
        architecture="aarch64",
        python_version="3.8.10",
        in_venv=True,
        sees_system_packages=True,
        state_dir="/state",
        free_disk_bytes=21 * 1024**3,
        swap_total_bytes=None,
        power_mode="MAXN",
        power_modes=["MAXN", "MODE_10W"],
    )

    assert command.as_text(facts, diagnose(facts)[:1]).splitlines() == [
        "board                 Jetson-AGX",
        "serial or machine id  1421020054321",
        "system                Ubuntu 20.04.6 LTS, R35.4.1 (JetPack 5.1.2), 5.10.120-tegra, aarch64",
        "CPU                   {} × ARMv8 Processor rev 0 (v8l), up to 2266 MHz".format(facts.cpu_count),
        "integer products      none of vnni, amx, dotprod, i8mm",
        "memory                31.2 GiB, swap unknown",
        "GPU                   Xavier, SM 7.2, fast: FP16, INT8, shares the board's memory, up to 1377 MHz",
        "backend               ort-cpu 1.10.0",
        "Python                3.8.10, virtual environment with the system's packages",
        "packages              onnxruntime 1.10.0",
        "power mode            MAXN (of MAXN, MODE_10W)",
        "clocks                free, to be set by: none",
        "for root only         emc_clock: readable",
        "for root only         iram: needs root",
        "for root only         nvmap: readable",
        "helper                missing",
        "jetson_clocks         missing",
        "nvpmodel              missing",
        "tegrastats            missing",
        "state directory       /state (21.0 GiB free)",
        "",
        "warning: Xavier is here and no runtime uses it: models run on the CPU",
        "    fix: install JetPack's TensorRT: sudo apt install --reinstall python3-libnvinfer",
    ]


@pytest.mark.parametrize(("backends", "code"), [([ORT], 0), ([], 2)])
def test_exit_code(backends, code, monkeypatch, capsys, tmp_path):
    """The exit code says whether this device can run a model, and the output says the rest."""
    monkeypatch.setattr(command, "runtimes", lambda: Runtimes({}, backends, []))

    assert command.main(["--json", "--state-dir", str(tmp_path)], {}) == code
    answer = json.loads(capsys.readouterr().out)
    assert (answer["can_run"], answer["facts"]["state_dir"]) == (not code, str(tmp_path))

    assert command.main(["--name", "nano-3"], {"XDG_STATE_HOME": str(tmp_path)}) == code
    assert str(tmp_path / "efficientquant-agent/nano-3") in capsys.readouterr().out
    assert not (tmp_path / "efficientquant-agent").exists()
