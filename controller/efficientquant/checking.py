"""Verdicts on whether and how a target builds an ONNX file."""

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
    """Return the verdict of a target on an ONNX file.

    The verdict says whether the file builds, how each layer is computed, and what quantization gains. Classic TensorRT
    is predicted from rules, since its builder needs the GPU. TensorRT-RTX builds an engine for the target's compute
    capability in a child process. ONNX Runtime loads the file on this CPU. `predict_only` judges TensorRT-RTX by rules
    too, without needing its installation.

    Raises UnknownTargetError, ArtifactFileError when the file is missing or is not an ONNX file, and MissingExtraError
    when TensorRT-RTX is needed but not installed.
    """
    capabilities = get_target(target)
    if not predict_only:
        require_builder(capabilities)
    return judge(load_onnx(Path(artifact)), capabilities, predict_only=predict_only)


def judge(model: onnx.ModelProto, target: Target, *, predict_only: bool = False) -> BuildVerdict:
    """Return the verdict of a target on a model in memory.

    Raises MissingExtraError as `check` does.
    """
    if predict_only and target.is_tensorrt:
        return predict(model, target)
    return _JUDGES[target.runtime](model, target)
