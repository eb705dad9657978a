"""Verdicts on whether and how a target builds an ONNX file."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import onnx

from efficientquant.artifact.onnx_file import load_onnx
from efficientquant.installation import require_builder
from efficientquant.lowering.emulation import Emulation, describe_emulation, read_emulation
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
    make = predict if predict_only and target.is_tensorrt else _JUDGES[target.runtime]
    return _with_emulation(make(model, target), read_emulation(model))


def _with_emulation(verdict: BuildVerdict, emulation: dict[str, Emulation]) -> BuildVerdict:
    """Return a verdict with the float operators that emulate others.

    A file that cannot be built has none to run.
    """
    if not emulation or not verdict.builds:
        return verdict
    operators = {kind: own.operators for kind, own in emulation.items()}
    gain = f"{verdict.gain}; emulated in float: {describe_emulation(emulation)}"
    return dataclasses.replace(verdict, gain=gain, facts={**verdict.facts, "emulation_operators": operators})
