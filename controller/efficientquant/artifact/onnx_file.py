"""Reading of ONNX files that a user gives.

Each way in which a file can be unusable is reported in one sentence.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data
from onnx.helper import tensor_dtype_to_np_dtype

from efficientquant.errors import ArtifactFileError
from efficientquant.files.given_paths import MAX_ARTIFACT_BYTES, format_gib, require_artifact, starts_like_lfs

# Types that pack elements into fewer than eight bits, by name: older releases of onnx lack some of them.
_PACKED_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
_PACKED_BITS |= {"FLOAT6E2M3": 6, "FLOAT6E3M2": 6}


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with its external data.

    Raises ArtifactFileError for a file that is missing or unusable.
    """
    require_artifact(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ArtifactFileError(path, f"cannot be read ({error.strerror or error})") from error
    except (DecodeError, ValueError):
        raise ArtifactFileError(path, "is not an ONNX file") from None
    if not model.graph.node or not model.opset_import:
        raise ArtifactFileError(path, "is not an ONNX file, or one without a graph")
    tensors = list(_tensors(model))
    _require_text(path, model, tensors)
    external = [tensor for tensor in tensors if uses_external_data(tensor)]
    _require_size(path, external)
    for tensor in external:
        _write_length(tensor)
    try:
        load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ArtifactFileError(
            path, f"its external data cannot be read ({str(error).partition(chr(10))[0]})"
        ) from error
    for tensor in tensors:
        _require_content(path, tensor)
    return model


def _require_text(path: Path, model: onnx.ModelProto, tensors: list[TensorProto]) -> None:
    """Raise ArtifactFileError where a name is not UTF-8.

    protobuf gives such names as bytes, which nothing here expects.
    """
    graph = model.graph
    names: list[object] = [tensor.name for tensor in tensors]
    names += [value.name for value in (*graph.input, *graph.output, *graph.value_info)]
    names += [entry.value for tensor in tensors for entry in tensor.external_data]
    names += [imported.domain for imported in model.opset_import]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    if not all(isinstance(name, str) for name in names):
        raise ArtifactFileError(path, "is damaged: a name in it is not text")


def _require_size(path: Path, tensors: list[TensorProto]) -> None:
    """Raise ArtifactFileError for external data that cannot be used.

    They may be missing, in another folder, too short, or too large together with the file.
    """
    total_bytes = os.path.getsize(path)
    for tensor in tensors:
        total_bytes += _external_bytes(path, tensor)
    if total_bytes > MAX_ARTIFACT_BYTES:
        problem = f"has {format_gib(total_bytes)} with its external data; files of up to 2 GiB can be checked"
        raise ArtifactFileError(path, problem)


def _external_bytes(path: Path, tensor: TensorProto) -> int:
    """Return how many bytes of external data a tensor takes.

    Raises ArtifactFileError for data that are missing, in another folder or too short.
    """
    try:
        place = ExternalDataInfo(tensor)
    except ValueError as error:
        raise ArtifactFileError(path, f"the place of its external data cannot be read ({error})") from error
    shown = f"its external data {place.location!r}"
    location = Path(os.path.normpath(path.parent / place.location))
    if not place.location or not location.is_relative_to(os.path.normpath(path.parent)):
        raise ArtifactFileError(path, f"{shown} must lie in the file's own folder or below; move the two together")
    if not os.path.isfile(location):
        kind = "is no file" if os.path.exists(location) else "is missing"
        raise ArtifactFileError(path, f"{shown} {kind}; put it next to the model, where {location} is expected")
    if starts_like_lfs(location):
        raise ArtifactFileError(path, f"{shown} is a git-lfs pointer; 'git lfs pull' gets the data themselves")
    stored_bytes = os.path.getsize(location)
    taken_bytes = place.length if place.length is not None else _needed_bytes(tensor) or 0
    end = (place.offset or 0) + taken_bytes
    if end > stored_bytes:
        problem = f"{shown} is cut off: it has {stored_bytes} bytes, {tensor.name!r} ends at byte {end}"
        raise ArtifactFileError(path, problem)
    return int(taken_bytes)


def _write_length(tensor: TensorProto) -> None:
    """Add the length to external data that lack it.

    Without it onnx reads to the end of the file.
    """
    needed_bytes = _needed_bytes(tensor)
    if needed_bytes is not None and all(entry.key != "length" for entry in tensor.external_data):
        tensor.external_data.add(key="length", value=str(needed_bytes))


def _require_content(path: Path, tensor: TensorProto) -> None:
    if tensor.HasField("raw_data") and _needed_bytes(tensor) not in (None, len(tensor.raw_data)):
        problem = f"{tensor.name!r} has {len(tensor.raw_data)} bytes where its shape needs {_needed_bytes(tensor)}"
        raise ArtifactFileError(path, f"is damaged: {problem}")


def _needed_bytes(tensor: TensorProto) -> int | None:
    """Return the bytes that a tensor's shape and type need.

    Returns None for a type without a fixed size.
    """
    elements = 1
    for size in tensor.dims:
        elements *= size
    if tensor.data_type not in TensorProto.DataType.values():
        return None
    name = TensorProto.DataType.Name(tensor.data_type)
    if name in ("UNDEFINED", "STRING"):
        return None
    bits = _PACKED_BITS.get(name) or 8 * int(tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return (elements * bits + 7) // 8


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield every stored tensor of a file.

    They are initializers and attributes, those of subgraphs and functions too.
    """
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _tensors_of_attributes(node.attribute)


def _tensors_of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from _tensors_of_attributes(node.attribute)


def _tensors_of_attributes(attributes: Iterable[AttributeProto]) -> Iterator[TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            yield from _tensors_of_graph(graph)
