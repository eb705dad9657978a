"""Profiles of ONNX files on a target."""

from collections.abc import Callable
from pathlib import Path

import onnx

from efficientquant.artifact.onnx_file import load_onnx
from efficientquant.artifact.view import GraphView
from efficientquant.errors import ArtifactFileError, ProfileError
from efficientquant.installation import require_builder
from efficientquant.targets import Runtime, Target, get_target, list_targets, sm_text
from efficientquant.verdicts.costs.cost_model import ceilings_of
from efficientquant.verdicts.costs.engine_work import work_of_engine
from efficientquant.verdicts.costs.onnx_macs import macs_of_node
from efficientquant.verdicts.costs.ort_work import work_of_session
from efficientquant.verdicts.costs.profile import Profile
from efficientquant.verdicts.dynamic_sizes import find_dynamic_sizes
from efficientquant.verdicts.products import find_products
from efficientquant.verdicts.rtx_build import Ending, build


def profile(artifact: str | Path, target: str) -> Profile:
    """Return the work and the modelled cost of a file's kernels.

    TensorRT-RTX builds an engine, and its log lists the kernels. ONNX Runtime runs the file once on this CPU, and its
    kernels get no modelled time. Raises UnknownTargetError, ArtifactFileError also for a file that does not build or
    has no fixed size, ProfileError for a target whose kernels are not known, and MissingExtraError.
    """
    capabilities = get_target(target)
    require_profile(capabilities)
    require_builder(capabilities)
    path = Path(artifact)
    model = load_onnx(path)
    for reason in find_dynamic_sizes(GraphView(model)):
        raise ArtifactFileError(path, str(reason))
    return _PROFILERS[capabilities.runtime](model, capabilities, path)


def require_profile(target: Target) -> None:
    """Raise ProfileError for a target whose kernels are not known here."""
    if target.runtime not in _PROFILERS:
        problem = "its kernels are not modelled"
        if target.is_tensorrt:
            problem = "its builder needs its GPU, so which operators share a kernel is not known"
        known = ", ".join(name for name in list_targets() if get_target(name).runtime in _PROFILERS)
        raise ProfileError(target.name, f"{problem}; there is one for {known}")


def _profile_engine(model: onnx.ModelProto, target: Target, path: Path) -> Profile:
    assert target.compute_capability is not None
    result = build(model, target.compute_capability)
    if result.ending is not Ending.BUILT:
        raise ArtifactFileError(path, f"is not built by TensorRT-RTX {result.version}: {result.problems[0][1]}")
    ceilings, view = ceilings_of(target), GraphView(model)
    work = work_of_engine(view, result.layers)
    all_macs = sum(macs_of_node(view, node) for node, _ in find_products(view))
    missing = f"no time is modelled: the peaks of SM {sm_text(target.compute_capability)} are not known"
    return Profile(
        target=target.name,
        runtime=f"TensorRT-RTX {result.version}",
        work=work,
        ceilings=ceilings,
        remark="" if ceilings else missing,
        unnamed_macs=all_macs - sum(kernel.macs for kernel in work),
    )


def _profile_session(model: onnx.ModelProto, target: Target, path: Path) -> Profile:
    runtime, work = work_of_session(model, path)
    return Profile(
        target=target.name,
        runtime=runtime,
        work=work,
        remark="no time is modelled: what a CPU reaches differs by kernel; 'efficientquant bench' measures it",
    )


_PROFILERS: dict[Runtime, Callable[[onnx.ModelProto, Target, Path], Profile]] = {
    Runtime.TENSORRT_RTX: _profile_engine,
    Runtime.ONNX_RUNTIME: _profile_session,
}
