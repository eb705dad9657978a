"""Verdicts on whether and how a target builds an ONNX file."""

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from efficientquant.artifact.onnx_file import load_onnx
from efficientquant.installation import require_builder
from efficientquant.lowering.emulation import Emulation, describe_emulation, read_emulation
from efficientquant.targets import Runtime, Target, get_target
from efficientquant.verdicts.build_rules import predict
from efficientquant.verdicts.build_verdict import BuildVerdict
from efficientquant.verdicts.comparison import Other, compare
from efficientquant.verdicts.float_twin import has_quantizers, lower_twin, twin_recipe, without_quantizers
from efficientquant.verdicts.openvino_build import verdict_of_compilation, verdict_without_openvino
from efficientquant.verdicts.ort_build import verdict_of_session
from efficientquant.verdicts.rtx_build import verdict_of_build

if TYPE_CHECKING:
    from torch import nn

    from efficientquant.quantization import QuantizedModel

Judge = Callable[[onnx.ModelProto, Target], BuildVerdict]
_JUDGES: dict[Runtime, Judge] = {
    Runtime.TENSORRT: predict,
    Runtime.TENSORRT_RTX: verdict_of_build,
    Runtime.ONNX_RUNTIME: verdict_of_session,
    Runtime.OPENVINO: verdict_of_compilation,
}
# Judges that need no builder.
_PREDICTIONS: dict[Runtime, Judge] = {
    Runtime.TENSORRT: predict,
    Runtime.TENSORRT_RTX: predict,
    Runtime.OPENVINO: verdict_without_openvino,
}


def check(artifact: str | Path, target: str, *, predict_only: bool = False) -> BuildVerdict:
    """Return the verdict of a target on an ONNX file.

    The verdict says whether the file builds, how each layer is computed, and what quantization gains. Classic TensorRT
    is predicted from rules, since its builder needs the GPU. TensorRT-RTX builds an engine for the target's compute
    capability in a child process. ONNX Runtime loads the file on this CPU, and OpenVINO compiles it. `predict_only`
    judges without the builders of TensorRT-RTX and OpenVINO.

    Raises UnknownTargetError, ArtifactFileError when the file is missing or is not an ONNX file, and MissingExtraError
    when one of these two is needed but not installed.
    """
    capabilities = get_target(target)
    if not predict_only:
        require_builder(capabilities)
    return judge(load_onnx(Path(artifact)), capabilities, predict_only=predict_only)


def check_against(artifact: str | Path, target: str, other: str | Path | None = None) -> BuildVerdict:
    """Return the verdict on an ONNX file, with the numbers of another.

    Without `other`, a file with quantizers is compared with itself without them, and a float file with nothing. A
    target whose verdicts are predicted compares nothing. Raises what `check` raises, for `other` too.
    """
    capabilities = get_target(target)
    require_builder(capabilities)
    model = load_onnx(Path(artifact))
    other_model = None if other is None else load_onnx(Path(other))
    verdict = judge(model, capabilities)
    if not verdict.builds or capabilities.is_predicted:
        return verdict
    if other is not None and other_model is not None:
        name = Path(other).name
        return compare(verdict, Other(name, "given", f"use {name} instead"), judge(other_model, capabilities))
    if not has_quantizers(model):
        return verdict
    kept = ", which keeps what emulates quantizers in float operators" if read_emulation(model) else ""
    # A file for ONNX Runtime keeps the types of its rest.
    name = "its fp16 twin" if capabilities.is_tensorrt else "its float twin"
    twin = Other(name, f"this file without its quantizers{kept}", f"use {twin_recipe(capabilities)} instead")
    return compare(verdict, twin, judge(without_quantizers(model, capabilities), capabilities))


def judge_beside_twin(
    model: onnx.ModelProto,
    quantized: "QuantizedModel",
    source: "nn.Module",
    target: Target,
    without_passes: Collection[str] = (),
) -> BuildVerdict:
    """Return the verdict on a quantized model, with its float twin's numbers.

    The twin has the weights of `source`, the eager model, and lacks the same lowering passes. A float file is judged
    alone, and so is one for a target whose verdicts are predicted. Raises MissingExtraError as `check` does.
    """
    verdict = judge(model, target)
    is_quantized = has_quantizers(model) or bool(read_emulation(model))
    if not is_quantized or not verdict.builds or target.is_predicted:
        return verdict
    recipe = twin_recipe(target)
    twin = Other(f"its {recipe} twin", f"the same model by {recipe}", f"use {recipe} instead")
    return compare(verdict, twin, judge(lower_twin(quantized, source, target, without_passes), target))


def judge(model: onnx.ModelProto, target: Target, *, predict_only: bool = False) -> BuildVerdict:
    """Return the verdict of a target on a model in memory.

    Raises MissingExtraError as `check` does.
    """
    make = (_JUDGES | _PREDICTIONS if predict_only else _JUDGES)[target.runtime]
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
