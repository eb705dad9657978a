"""Build verdicts before shipping: what a target will make of an ONNX file."""

from collections.abc import Callable
from pathlib import Path

import onnx

from efficientquant.onnx_view import load_onnx
from efficientquant.targets import Runtime, Target, get_target
from efficientquant.verdicts.build_rules import predict
from efficientquant.verdicts.ort_build import verdict_of_session
from efficientquant.verdicts.rtx_build import verdict_of_build
from efficientquant.verdicts.verdict import BuildVerdict

Judge = Callable[[onnx.ModelProto, Target], BuildVerdict]
_JUDGES: dict[Runtime, Judge] = {
    Runtime.TENSORRT: predict,
    Runtime.TENSORRT_RTX: verdict_of_build,
    Runtime.ONNX_RUNTIME: verdict_of_session,
}


def check(artifact: str | Path, target: str) -> BuildVerdict:
    """Return what a target makes of an ONNX file: does it build, in which arithmetic, and what that buys.

    Classic TensorRT is predicted from rules, since its builder needs the GPU; TensorRT-RTX really builds an engine
    for the target's compute capability, in a child process; ONNX Runtime really loads the file on this CPU.
    Raises UnknownTargetError, ArtifactFileError for a file that is none, MissingExtraError without TensorRT-RTX.
    """
    capabilities = get_target(target)
    return _JUDGES[capabilities.runtime](load_onnx(Path(artifact)), capabilities)
