"""Which runtime a device runs a job with, and what the artifact is lowered for: decided by capabilities alone."""

from dataclasses import dataclass

from efficientquant_controller.errors import UserError
from efficientquant_controller.model import Backend, Device, DeviceSnapshot

# From this version on ONNX Runtime reads the current form; older ones get the widest.
_CURRENT_ONNX_RUNTIME = (1, 17)


@dataclass(frozen=True)
class Variant:
    """A backend of a device, and the target of the artifacts that it gets."""

    backend: str
    target: str


def choose_variant(device: Device, backend: str = "") -> Variant:
    """The variant for a device: with its preferred backend, or with the one named.

    Raises UserError when the device has no runtime, or not the one named.
    """
    backends = device.snapshot.backends
    if not backends:
        raise UserError(
            f"device '{device.name}' has no runtime to run a model with; look at 'efficientquant-agent doctor' there, "
            "or leave it out with --devices"
        )
    chosen = next((one for one in backends if one.name == (backend or backends[0].name)), None)
    if chosen is None:
        raise UserError(
            f"device '{device.name}' has no backend '{backend}' (it has: {', '.join(one.name for one in backends)}); "
            "name one of these with --backend, or leave the device out with --devices"
        )
    return Variant(chosen.name, _target(chosen, device.snapshot))


def _target(backend: Backend, snapshot: DeviceSnapshot) -> str:
    version = _version(backend.version)
    gpu = snapshot.gpus[0] if snapshot.gpus else None
    if backend.name == "trt-rtx" and gpu is not None:
        return f"tensorrt-rtx-sm{gpu.compute_capability}"
    if backend.name == "trt":
        if version >= (10,):
            return "tensorrt-11" if version >= (11,) else "tensorrt-10"
        # Named after the first board of its kind; what decides is whether the GPU computes INT8.
        return "agx-xavier" if gpu is not None and gpu.int8 else "jetson-nano"
    return "onnxruntime" if version >= _CURRENT_ONNX_RUNTIME else "onnxruntime-1.10"


def _version(text: str) -> tuple[int, ...]:
    """The numbers a version begins with, e.g. (8, 2, 1) of "8.2.1.8+cuda10"."""
    numbers: list[int] = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)
