"""The tests of the records between the daemon and its children."""

import json
import subprocess
import sys

import pytest
from efficientquant_agent import protocol
from efficientquant_agent.protocol import (
    BuildFailure,
    BuildOptions,
    BuildReport,
    BuildSpec,
    DamagedError,
    MismatchError,
    Outcome,
    RunSpec,
)
from efficientquant_agent.records import Agreement, Finding, Measurement, Readings, Series, StageTiming, Window
from efficientquant_agent.run.children import Ended, crash, read_outcome

MEASUREMENT = Measurement("smoke", *range(1, 10), hot_zones="temperature_gpu_c")
RUN = RunSpec(1, "/scratch", "trt", "nano-1", "/engine.plan", "", MEASUREMENT)
OUTCOME = Outcome(
    failure_type="runtime_error",
    failure_message="no",
    stages=[StageTiming("read", 0.5, 7, True)],
    windows=[Window("load", 1.0, 2.0)],
    own_pss=Series("child_pss_bytes", [1.5], [2e6]),
    findings=[Finding("agent", "info", "a bug")],
    readings=Readings(device_memory_bytes=4096),
    agreement=Agreement(0.1, 0.99, 7, 8),
    warmup_converged=True,
    providers=["P"],
    library_versions={"numpy": "1.19.4"},
    session_options={"cuda_graph": "on"},
    realised_precision={"int8": 3},
    layers=[{"name": "conv", "mean_s": 0.25}],
)


@pytest.mark.parametrize(
    ("record", "decode"),
    [
        (RUN, protocol.decode_run_spec),
        (
            BuildSpec(1, "/scratch", "trt", "nano-1", "/x.onnx", BuildOptions(["fp16"], [64])),
            protocol.decode_build_spec,
        ),
        (OUTCOME, protocol.decode_outcome),
        (BuildFailure("build_oom", "no memory"), protocol.decode_build_failure),
        (BuildReport("ab", 4, 64, 0.5, 1.5, ("a note",), {"sm": "53"}), protocol.decode_report),
    ],
    ids=lambda value: type(value).__name__,
)
def test_records_round_trip(record, decode):
    """Every record is decoded as it was encoded, with its nested records."""
    assert decode(protocol.encode(record)) == record


def test_nothing_known():
    """An empty outcome can be encoded and decoded."""
    assert protocol.decode_outcome(protocol.encode(Outcome())).readings.known() == {}


@pytest.mark.parametrize(
    ("path", "name", "problem"),
    [
        ((), "stages", r"Outcome lacks \['stages'\]"),
        (("readings",), "sampler_cpu_s", r"Readings lacks \['sampler_cpu_s'\]"),
        (("stages", 0), "cold", r"StageTiming lacks \['cold'\]"),
        (("agreement",), "count", r"Agreement lacks \['count'\]"),
    ],
)
def test_another_release(path, name, problem, tmp_path):
    """A missing or unknown field is one agent_error that says what to do."""
    whole = json.loads(protocol.encode(OUTCOME).decode())
    part = whole
    for step in path:
        part = part[step]
    part["from_the_future"] = part.pop(name)
    (tmp_path / protocol.OUTCOME_FILE).write_text(json.dumps(whole))

    with pytest.raises(MismatchError, match=problem + r" and has besides \['from_the_future'\]\); restart") as error:
        read_outcome(str(tmp_path), Ended(0, []), protocol.decode_outcome)

    assert error.value.failure_type == "agent_error"


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b'{"stages": 1', b"\xff"])
def test_no_outcome(content):
    """A damaged outcome is an agent_error that does not mention releases."""
    with pytest.raises(DamagedError, match=r"cannot be read \(Outcome is no") as error:
        protocol.decode_outcome(content)

    assert error.value.failure_type == "agent_error"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("stages", 0, "duration_s"), "soon"),
        (("stages", 0, "size_bytes"), -1),
        (("stages", 0, "cold"), 1),
        (("windows", 0, "start_s"), None),
        (("own_pss", "time_s"), "ab"),
        (("own_pss", "value", 0), None),
        (("readings", "device_memory_bytes"), "many"),
        (("agreement", "count"), 1.5),
        (("failure_type",), 5),
        (("providers",), None),
        (("library_versions", "numpy"), 1.19),
        (("realised_precision", "int8"), True),
        (("layers", 0), "conv"),
        (("warmup_converged",), "no"),
    ],
)
def test_a_value_of_another_type_is_named(path, value):
    """A value that its field cannot hold is one error that names its place."""
    whole = json.loads(protocol.encode(OUTCOME).decode())
    part = whole
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    place = "Outcome" + "".join("[{}]".format(step) if isinstance(step, int) else "." + step for step in path)

    with pytest.raises(DamagedError) as error:
        protocol.decode_outcome(json.dumps(whole).encode())

    assert "{} is {}".format(place, repr(value)) in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    """A folder in place of a file, and JSON that is nested too deeply, are damage."""
    (tmp_path / "outcome.json").mkdir()

    with pytest.raises(DamagedError):
        protocol.read(str(tmp_path / "outcome.json"), protocol.decode_outcome)
    with pytest.raises(DamagedError):
        protocol.decode_outcome(b"[" * 100000)


def test_an_exit_code_alone_is_no_mismatch():
    """A child that a library ends with that exit code is reported in the library's words."""
    failures = {"oom": "runtime_oom", "other": "runtime_error"}

    error = crash(Ended(protocol.EXIT_MISMATCH, ["libfoo: licence missing"]), "", failures)

    assert (error.failure_type, str(error)) == (
        "runtime_error",
        "the run's process ended with code 78: libfoo: licence missing",
    )


@pytest.mark.parametrize("module", [protocol.RUN_MODULE, protocol.BUILD_MODULE])
def test_a_spec_of_another_release(module):
    """A child that does not understand its spec exits at once, and its parent reports agent_error in its words."""
    done = subprocess.run([sys.executable, "-m", module], input=b"{}", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    last_line = done.stderr.decode().splitlines()[-1]

    error = crash(Ended(done.returncode, [last_line]), "", {"oom": "runtime_oom", "other": "runtime_error"})

    assert error.failure_type == "agent_error"
    assert str(error).startswith("the agent's processes are of different releases (")


def test_files(tmp_path):
    """A record is written to its file completely or not at all."""
    path = str(tmp_path / "outcome.json")
    assert protocol.read(path, protocol.decode_outcome) is None

    protocol.write(path, OUTCOME)

    assert protocol.read(path, protocol.decode_outcome) == OUTCOME
    assert [path.name for path in tmp_path.iterdir()] == ["outcome.json"]
