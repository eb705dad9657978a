"""A Nano with TensorRT, its variants, engines and result rows.

Its TensorRT is a double that runs engines on ONNX Runtime. More tests of engines are in
tests/agent/run/test_engine_runs.py.
"""

import json

from fleet import FIXTURES, Fleet

TINY = "test_efficientnet"


def connect_nano(fleet: Fleet, python: str, **events: object) -> None:
    """Connect a Nano whose TensorRT double follows `events`."""
    script = fleet.folder / "tensorrt.json"
    script.write_text(json.dumps(events))
    fleet.connect_agent(
        "nano",
        python,
        options=["--board-root", str(fleet.copy_board("nano-r32.7.4"))],
        environment={"PYTHONPATH": str(FIXTURES / "doubles/tensorrt"), "DOUBLE_TENSORRT": str(script)},
    )


def test_a_nano_with_tensorrt(fleet: Fleet, python36: str) -> None:
    """A device whose GPU has no INT8 gets float files and flags, and builds each engine once."""
    connect_nano(fleet, python36)

    options = ("--recipes", "fp16,efficientquant", "--weights", "random", "--tier", "demo", "--repeats", "2")
    done = fleet.run("bench", TINY, *options, "--layers", "--json")

    rows = {row["recipe"]: row for row in json.loads(done.stdout)["results"]}
    assert {row["state"] for row in rows.values()} == {"succeeded"}, rows
    assert {(row["backend"], row["target"]) for row in rows.values()} == {("trt", "jetson-nano")}
    assert all(row["output_cosine"] > 0.999 and row["device_latency_p50_s"] > 0 for row in rows.values())
    assert all(row["engine_bytes"] > 0 and row["build_s"] > 0 for row in rows.values())
    assert rows["fp16"]["realised_precision"] == {"int8": 1, "fp16": 1, "fp32": 1, "unknown": 1}
    assert (fleet.folder / "tensorrt.json.log").read_text().split().count("build") == 3
    engines = fleet.query(
        "select runs.repeat_index, engines.from_cache, json_extract(engines.settings, '$.precision'), "
        "json_extract(engines.layers, '$[0].mean_s') from engines join runs using (run_id) join jobs using (job_id) "
        "where jobs.recipe = 'fp16' order by runs.repeat_index"
    )
    assert [row[:3] for row in engines] == [(0, 0, "fp16"), (1, 1, "fp16")]
    assert all(row[3] > 0 for row in engines)


def test_a_build_killed_for_memory(fleet: Fleet, python36: str) -> None:
    """A build that is killed with every workspace is build_oom, with the workspaces and the free memory."""
    connect_nano(fleet, python36, kill_builds=99)

    row = fleet.bench_once(TINY)

    assert (row["state"], row["failure_type"]) == ("failed", "build_oom")
    assert "workspaces of 256, 128, 64 MiB were tried; the board had at least" in row["failure_message"]
    assert "swap in use reached" in row["failure_message"]


def test_a_build_that_takes_too_long(fleet: Fleet, python36: str) -> None:
    """A build that never ends fails its job as a timeout at the run's time limit."""
    assert fleet.controller is not None
    fleet.controller.kill()
    # The time limit is six seconds here instead of an hour.
    fleet.start_controller(
        code="from efficientquant_controller.server import convert\nconvert.run_timeout_s = lambda *_, **__: 6.0"
    )
    connect_nano(fleet, python36, hang=True)

    row = fleet.bench_once(TINY)

    assert (row["state"], row["failure_type"]) == ("failed", "timeout")
    assert row["failure_message"] == "killed after 6 s, the run's time limit"


def test_a_hung_build(fleet: Fleet, python36: str) -> None:
    """A build that never ends can be cancelled, and the device works afterwards."""
    connect_nano(fleet, python36, hang=True)
    hung = fleet.submit(TINY)
    fleet.wait_for_phase(hung, "nano", "build")

    assert fleet.run("cancel", hung).returncode == 0

    (fleet.folder / "tensorrt.json").write_text("{}")
    assert fleet.bench_once(TINY)["state"] == "succeeded"
