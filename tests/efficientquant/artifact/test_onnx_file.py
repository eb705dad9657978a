"""Files given as ONNX that are none or are damaged."""

import numpy as np
import onnx
import pytest
from efficientquant.artifact.onnx_file import load_onnx
from efficientquant.errors import ArtifactFileError
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data
from onnx_graphs import convolution

WEIGHT_BYTES = 8 * 8 * 3 * 3 * 4


@pytest.fixture
def external(tmp_path):
    """Return a function that saves a convolution whose weight lies elsewhere, and returns its path."""

    def save(location="weights.bin", **place):
        weight = TensorProto(name="w", dims=[8, 8, 3, 3], data_type=TensorProto.FLOAT)
        weight.raw_data = b""
        set_external_data(weight, location, **place)
        weight.data_location = TensorProto.EXTERNAL
        graph = helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])],
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8, 16, 16))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [weight],
        )
        path = tmp_path / "model.onnx"
        path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString())
        return path

    return save


def test_external_data_left_to_git_lfs_are_named(tmp_path, external):
    """A git-lfs pointer in place of the data is named as such."""
    (tmp_path / "weights.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2304\n")

    with pytest.raises(ArtifactFileError, match=r"external data 'weights\.bin' is a git-lfs pointer; 'git lfs pull'"):
        load_onnx(external())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not an ONNX file: it is empty"),
        (b"not a model", "is not an ONNX file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "not an ONNX file but a git-lfs pointer",
        ),
        (b"PK\x03\x04rest", "zip file such as PyTorch's .pt; 'efficientquant quantize' makes an ONNX file"),
        (b"\x80\x02}q\x00.", "pickle such as PyTorch's old .pth"),
        (b"<!DOCTYPE html>", "web page"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path, content, problem):
    """A file that is not ONNX is refused, with its kind where that is known."""
    (tmp_path / "model.onnx").write_bytes(content)

    with pytest.raises(ArtifactFileError, match=problem):
        load_onnx(tmp_path / "model.onnx")


def test_a_missing_file_is_named(tmp_path):
    """The error for a folder suggests an ONNX file in it, and a missing file is reported as missing."""
    (tmp_path / "model.onnx").touch()

    with pytest.raises(ArtifactFileError, match=r"is a directory; give an .onnx file, for example .*model\.onnx"):
        load_onnx(tmp_path)
    with pytest.raises(ArtifactFileError, match="there is no such file"):
        load_onnx(tmp_path / "nowhere.onnx")
    with pytest.raises(ArtifactFileError, match="is not a regular file"):
        load_onnx(tmp_path.__class__("/dev/zero"))


def test_more_than_two_gibibytes_are_refused_unread(tmp_path, external):
    """A file of 2.25 GiB, alone or with its external data, is refused by its size."""
    with (tmp_path / "alone.onnx").open("wb") as stream:
        stream.truncate(9 << 28)
    path = external(length=9 << 28)
    (tmp_path / "alone.onnx").rename(tmp_path / "weights.bin")

    with pytest.raises(
        ArtifactFileError, match=r"has 2\.25 GiB; an ONNX file ends at 2 GiB, and up to that can be checked"
    ):
        load_onnx(tmp_path / "weights.bin")
    with pytest.raises(ArtifactFileError, match=r"has .* GiB with its external data; files of up to 2 GiB"):
        load_onnx(path)


@pytest.mark.parametrize("place", [{}, {"offset": 16}, {"offset": 16, "length": WEIGHT_BYTES}])
def test_external_data_are_read(tmp_path, external, place):
    """Weights in a separate file are read, with offset and length or without."""
    (tmp_path / "weights.bin").write_bytes(bytes(16) + np.ones(WEIGHT_BYTES // 4, np.float32).tobytes())

    weight = onnx.numpy_helper.to_array(load_onnx(external(**place)).graph.initializer[0])

    assert (weight.shape, weight.flat[-1]) == ((8, 8, 3, 3), 1.0)


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ({"location": "gone.bin"}, r"its external data 'gone\.bin' is missing; put it next to the model"),
        ({"location": "../weights.bin"}, "must lie in the file's own folder or below"),
        ({"location": "/etc/hostname"}, "must lie in the file's own folder or below"),
        ({"location": "."}, "is no file"),
        ({"length": WEIGHT_BYTES}, r"is cut off: it has 100 bytes, 'w' ends at byte 2304"),
        ({"offset": 64}, r"is cut off: it has 100 bytes, 'w' ends at byte 2368"),
        ({"offset": -4}, "the place of its external data cannot be read"),
    ],
)
def test_unusable_external_data_are_named(tmp_path, external, place, problem):
    """Data that are missing, elsewhere or cut off are one sentence with their name."""
    (tmp_path / "weights.bin").write_bytes(bytes(100))

    with pytest.raises(ArtifactFileError, match=problem):
        load_onnx(external(**place))


def test_a_constant_without_its_bytes_is_named(tmp_path):
    """A constant that holds other bytes than its shape needs is damage."""
    model = convolution(quantize_input=False, quantize_weight=False)
    model.graph.initializer[0].raw_data = b"1234"
    onnx.save(model, tmp_path / "model.onnx")

    with pytest.raises(ArtifactFileError, match="is damaged: 'w' has 4 bytes where its shape needs 2304"):
        load_onnx(tmp_path / "model.onnx")


def test_a_name_that_is_not_text_is_damage(tmp_path):
    """A file whose names are no UTF-8 is refused before a rule stumbles over them."""
    content = convolution(quantize_input=False).SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content.replace(b"w_dequantize", b"w_dequanti\xff\xfe"))

    with pytest.raises(ArtifactFileError, match="is damaged: a name in it is not text"):
        load_onnx(tmp_path / "model.onnx")
