"""Build verdicts before shipping: what a target will make of an ONNX file."""

from collections.abc import Callable
from pathlib import Path

import onnx

from efficientquant.artifact.onnx_file import load_onnx
from efficientquant.installation import require_builder
from efficientquant.targets import Runtime, Target, get_target
from efficientquant.verdicts.build_rules import predict
from efficientquant.verdicts.build_verdict import BuildVerdict
from efficientquant.verdicts.ort_build import verdict_of_session
from efficientquant.verdicts.rtx_build import verdict_of_build

Judge = Callable[[onnx.ModelProto, Target], BuildVerdict]
_JUDGES: dict[Runtime, Judge] = {
    Runtime.TENSORRT: predict,
    Runtime.TENSORRT_RTX: verdict_of_build,
    Runtime.ONNX_RUNTIME: verdict_of_session,
}


def check(artifact: str | Path, target: str, *, predict_only: bool = False) -> BuildVerdict:
    """Return what a target makes of an ONNX file: does it build, in which arithmetic, and what that buys.

    Classic TensorRT is predicted from rules, since its builder needs the GPU; TensorRT-RTX really builds an engine
    for the target's compute capability, in a child process; ONNX Runtime really loads the file on this CPU.
    `predict_only` judges TensorRT-RTX by rules too, where it is not installed.
    Raises UnknownTargetError, ArtifactFileError for a file that is none, MissingExtraError without TensorRT-RTX.
    """
    capabilities = get_target(target)
    if not predict_only:
        require_builder(capabilities)
    return judge(load_onnx(Path(artifact)), capabilities, predict_only=predict_only)


def judge(model: onnx.ModelProto, target: Target, *, predict_only: bool = False) -> BuildVerdict:
    """Return the verdict on a model in memory.

    Raises MissingExtraError as `check` does.
    """
    if predict_only and target.is_tensorrt:
        return predict(model, target)
    return _JUDGES[target.runtime](model, target)
