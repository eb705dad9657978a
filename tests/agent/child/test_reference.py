"""The tests of reading and comparing reference outputs."""

import io

import numpy as np
import onnxruntime
import pytest
from efficientquant_agent.child.reference import WrongReferenceError, check_shapes, compare, read, seeded_feeds
from efficientquant_agent.records import Agreement

WAIT_S = 60.0
INPUT = np.full((2, 1, 3), 0.5, dtype=np.float16)
OUTPUT = np.zeros((2, 1, 4), dtype=np.float32)


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **{name.replace("_", ":"): array for name, array in arrays.items()})
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def encrypted(content):
    """Set the encryption flag of an archive's first entry."""
    flags = content.index(b"PK\x01\x02") + 8
    return content[:flags] + bytes([content[flags] | 1]) + content[flags + 1 :]


def test_read():
    """Inputs are read as float32, one mapping each, and outputs in the order of their numbers."""
    outputs = {"output_{}".format(k): np.full((2, 1), k, dtype=np.float32) for k in reversed(range(11))}

    reference = read(npz(input_image=INPUT, **outputs))

    assert [sorted(feed) for feed in reference.feeds] == [["image"], ["image"]]
    assert reference.feeds[0]["image"].dtype == np.float32
    assert reference.feeds[0]["image"].tolist() == [[0.5, 0.5, 0.5]]
    assert [output.tolist() for output in reference.outputs[1]] == [[float(k)] for k in range(11)]


WHOLE = npz(input_image=INPUT, output_0=OUTPUT)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an archive",
        b"PK\x03\x04" + b"\0" * 200,
        WHOLE[: len(WHOLE) // 2],
        WHOLE.replace(b"\x93NUMPY", b"\x93NUMPX"),
        encrypted(WHOLE),
        npy(INPUT),
        npz(input_image=INPUT),
        npz(output_0=OUTPUT),
        npz(input_image=INPUT, output_1=OUTPUT),
        npz(input_image=INPUT, output_0=OUTPUT[:1]),
        npz(input_image=INPUT[:0], output_0=OUTPUT[:0]),
        npz(input_image=np.float32(1), output_0=np.float32(1)),
        npz(input_image=np.array(["a", "b"]), output_0=OUTPUT),
        npz(input_image=np.array([None, None]), output_0=OUTPUT),
        npz(input_image=INPUT, output_0=np.full((2, 1), np.nan)),
    ],
    ids=[
        *(
            "nothing",
            "text",
            "no central directory",
            "cut",
            "damaged",
            "encrypted",
            "one array",
            "no outputs",
            "no inputs",
        ),
        *("a gap", "other counts", "no samples", "scalars", "text inside", "objects", "not a number"),
    ],
)
def test_garbage_is_refused(content):
    """Content that is no reference is refused in a sentence, and nothing in it is executed."""
    with pytest.raises(WrongReferenceError, match="not a file of reference outputs"):
        read(content)


def test_every_byte_that_is_cut_off_is_refused():
    """A truncated reference is refused."""
    for size in range(0, len(WHOLE), 7):
        with pytest.raises(WrongReferenceError):
            read(WHOLE[:size])


def test_shapes_must_be_the_models_own():
    """A reference with another model's inputs is refused, naming both."""
    reference = read(WHOLE)

    check_shapes(reference, {"image": (1, 3)})
    with pytest.raises(WrongReferenceError, match=r"inputs \{'image': \(1, 3\)\}, the model takes \{'x': \(1, 3\)\}"):
        check_shapes(reference, {"x": (1, 3)})


@pytest.mark.parametrize(
    ("expected", "got", "agreement"),
    [
        ([[[3.0, 4.0]]], [[[3.0, 4.0]]], Agreement(0.0, 1.0, 1, 1)),
        ([[[3.0, 4.0]]], [[[4.0, 3.0]]], Agreement(1.0, 0.96, 0, 1)),
        ([[[3.0, 4.0]], [[0.0, 2.0]]], [[[3.0, 4.5]], [[0.0, 1.0]]], Agreement(1.0, 27 / (5 * 29.25**0.5), 2, 2)),
        ([[[0.0, 1.0], [1.0, 0.0]]], [[[0.0, 1.0], [0.0, 1.0]]], Agreement(1.0, 0.0, 1, 1)),
        ([[[1.0, 0.0]]], [[[-1.0, 0.0]]], Agreement(2.0, -1.0, 0, 1)),
        ([[[0.0, 0.0]]], [[[0.0, 0.0]]], Agreement(0.0, 1.0, 1, 1)),
        ([[[0.0, 0.0]]], [[[0.0, 1.0]]], Agreement(1.0, 0.0, 0, 1)),
        ([[[0.0, 1.0]]], [[[0.0, float("nan")]]], Agreement(float("inf"), -1.0, 0, 1)),
        ([[[0.0, 1.0]]], [[[0.0, float("inf")]]], Agreement(float("inf"), -1.0, 0, 1)),
        ([[[0.0, 1.0]]], [[[0.0, 1.0, 2.0]]], Agreement(float("inf"), -1.0, 0, 1)),
        ([[[0.0, 1.0], [1.0]]], [[[0.0, 1.0]]], Agreement(float("inf"), -1.0, 1, 1)),
    ],
    ids=[
        *("equal", "permuted", "two inputs", "second output", "opposite", "zeros", "zeros for ones"),
        *("nan", "inf", "other shape", "a missing output"),
    ],
)
def test_compare(expected, got, agreement):
    """Comparing gives the largest difference, the smallest cosine and the number of answers that agree."""
    result = compare(
        [[np.array(output) for output in outputs] for outputs in expected],
        [[np.array(output) for output in outputs] for outputs in got],
    )

    assert result._replace(cosine=0.0) == agreement._replace(cosine=0.0)
    assert result.cosine == pytest.approx(agreement.cosine, abs=1e-15)


def test_feeds_are_the_same_for_the_same_seed():
    """Inputs without a reference are float32 in [0, 1), all different, and the same for the same seed."""
    shapes = {"image": (1, 3, 4)}

    first, second = [seeded_feeds(shapes, 3, 2**32 + 7) for _ in range(2)]

    assert all((a["image"] == b["image"]).all() for a, b in zip(first, second))
    assert {feed["image"].dtype for feed in first} == {np.dtype("float32")}
    assert all(0 <= feed["image"].min() < feed["image"].max() < 1 for feed in first)
    assert len({feed["image"].tobytes() for feed in first}) == 3


def tiny_reference(content, alter=lambda outputs: outputs):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = np.random.RandomState(3).random_sample((8, 1, 3, 16, 16)).astype(np.float16)
    outputs = np.stack([session.run(None, {"image": image.astype(np.float32)})[0] for image in images])
    return npz(input_image=images, output_0=alter(outputs))


def test_right_outputs(controller, start_agent, tiny_model):
    """A model that agrees with its reference is measured on the reference's inputs, and the agreement is kept."""
    start_agent(controller.address)
    controller.assign("run-1", tiny_model, reference=tiny_reference(tiny_model))

    result = controller.reports.get(timeout=WAIT_S)

    assert result.failure_type == ""
    assert (result.agreement.argmax_matches, result.agreement.count) == (8, 8)
    assert result.agreement.max_abs < 1e-5
    assert len(result.latency_s) >= 64


def test_wrong_outputs(controller, start_agent, tiny_model):
    """A model that disagrees with its reference fails without a measurement, and the agreement is kept."""
    start_agent(controller.address)
    controller.assign("run-1", tiny_model, reference=tiny_reference(tiny_model, lambda outputs: 1 - 4 * outputs))

    result = controller.reports.get(timeout=WAIT_S)

    assert result.failure_type == "wrong_outputs"
    assert "cosine -0." in result.failure_message
    assert "nothing was measured" in result.failure_message
    assert result.agreement.cosine < 0
    assert (result.agreement.argmax_matches, result.agreement.count) == (0, 8)
    assert not result.latency_s
    assert not result.warmup_latency_s
    assert [stage.stage for stage in result.stages][-1] == "first_inference"


def test_reference_of_another_model(controller, start_agent, tiny_model):
    """A damaged reference, or a reference with other inputs, is load_failed."""
    start_agent(controller.address)
    controller.assign("run-1", tiny_model, reference=b"PK\x03\x04 and so on")
    controller.assign("run-2", tiny_model, reference=WHOLE)

    results = [controller.reports.get(timeout=WAIT_S) for _ in range(2)]

    assert [result.failure_type for result in results] == ["load_failed", "load_failed"]
    assert "not a file of reference outputs" in results[0].failure_message
    assert "the reference has inputs {'image': (1, 3)}" in results[1].failure_message
