"""The errors of ONNX Runtime's binding for files that it refuses.

They have no base class of their own. Imports no torch.
"""

from onnxruntime.capi import onnxruntime_pybind11_state as binding

ORT_ERRORS = (
    binding.Fail,
    binding.InvalidArgument,
    binding.InvalidGraph,
    binding.InvalidProtobuf,
    binding.NoSuchFile,
    binding.NotImplemented,
    binding.RuntimeException,
)


def first_line(error: BaseException) -> str:
    """Return the first line of an error, or its class."""
    return (str(error).splitlines() or [type(error).__name__])[0]
