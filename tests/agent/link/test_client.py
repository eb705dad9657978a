"""The seam to the wire: records become messages that every peer can read."""

from efficientquant_agent.host.device import DeviceFiles
from efficientquant_agent.link.messages import Hello, encode_result, hello_to_wire
from efficientquant_agent.records import Finding, RunResult
from efficientquant_protos.v1 import fleet_pb2 as pb

ESCAPED = "/N\udcc3\udca4/run"  # a path as Python reads it in a C locale


def test_texts_that_are_no_unicode(tmp_path):
    """A path that Python could not decode does not prevent the delivery of a result."""
    device = DeviceFiles.of_tree(str(tmp_path)).snapshot({"python": ESCAPED}, [])
    result = RunResult(
        run_id="run-1",
        device_id="d",
        attempt=1,
        device=device._replace(os=ESCAPED),
        backend="ort-cpu",
        library_versions={},
        failure_message=ESCAPED,
        log_tail=[ESCAPED],
        findings=[Finding("clocks", "info", ESCAPED)],
    )

    message = pb.RunResult.FromString(encode_result(result))

    texts = {message.failure_message, *message.log_tail, message.findings[0].message, message.device.os}
    assert texts == {"/N\xe4/run"}


def test_hello_names_broken_runtimes(tmp_path):
    """A hello says why installed runtimes do not work."""
    device = DeviceFiles.of_tree(str(tmp_path)).snapshot({}, [])
    hello = Hello("d", "nano-1", 1, device, ["backend 'trt' crashes: " + ESCAPED])

    assert list(hello_to_wire(hello, [], "").broken_backends) == ["backend 'trt' crashes: /N\xe4/run"]
