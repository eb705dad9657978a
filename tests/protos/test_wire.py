"""The generated messages, on every Python and protobuf the product supports."""

from efficientquant_protos import PROTOCOL_VERSION
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc


def test_a_result_survives_the_wire_bit_for_bit():
    """The controller reads a result as the agent wrote it, with exact doubles and absent fields."""
    result = pb.RunResult(run_id="r", latency_s=[0.1, 1e-9, 3.0], peak_pss_bytes=2**40, providers=["CPU"])
    result.library_versions["python"] = "3.6.15"

    read = pb.RunResult.FromString(result.SerializeToString())

    assert read == result
    assert list(read.latency_s) == [0.1, 1e-9, 3.0]
    assert read.HasField("peak_pss_bytes")
    assert not read.HasField("sampler_cpu_s")


def test_an_unknown_field_of_a_newer_peer_is_kept_not_fatal():
    """A message with an unknown field can be read, and is serialized with that field."""
    newer = pb.Heartbeat(active_run_ids=["a"]).SerializeToString() + b"\xa2\x06\x01x"

    read = pb.Heartbeat.FromString(newer)

    assert list(read.active_run_ids) == ["a"]
    assert read.SerializeToString() == newer


def test_both_services_are_there():
    """Agents and clients have a service each, and the protocol has a version."""
    assert fleet_pb2_grpc.AgentGatewayStub
    assert fleet_pb2_grpc.FleetControlStub
    assert PROTOCOL_VERSION == 4


def test_every_measured_field_says_its_unit():
    """The name of a number with a physical dimension ends with its unit."""
    pure_numbers = {
        *("fraction", "value", "attempt", "protocol_version", "session_epoch", "offset", "seed", "input_seed"),
        *("max_abs", "cosine", "output_max_abs", "output_cosine", "output_argmax_agreement"),  # of a model's outputs
    }
    units = ("_s", "_bytes", "_c", "_hz", "_j", "_w", "_count", "_epoch", "_ratio", "_ratio_low", "_ratio_high")
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        for field in message.fields:
            if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_UINT64):
                named = field.name.endswith(units)
                assert named or field.name in pure_numbers, "{}.{}".format(message.name, field.name)
