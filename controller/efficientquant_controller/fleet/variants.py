"""Which runtime a device runs a job with, and what the artifact is lowered for: decided by capabilities alone."""

from dataclasses import dataclass

from efficientquant_controller.errors import UserError
from efficientquant_controller.model import Backend, Device, Gpu


@dataclass(frozen=True)
class Variant:
    """A backend of a device, and the target of the artifacts that it gets."""

    backend: str
    target: str


@dataclass(frozen=True)
class Form:
    """One form of artifact, from an opset on, and its target."""

    name: str
    opset: int
    target: str  # "{sm}" stands for the GPU's compute capability, e.g. 86
    flags: tuple[str, ...] = ()  # the precision flags that the artifact may ask the builder for
    needs_int8: bool = False  # of the GPU

    def fits(self, backend: Backend, gpu: Gpu | None) -> bool:
        """Return whether a backend builds from this form on this GPU."""
        reads = backend.form == self.name and backend.opset >= self.opset
        # Without flags the types in the file decide, and a builder that chooses itself is another one.
        takes = set(self.flags) <= set(backend.precision_flags) if self.flags else not backend.precision_flags
        return reads and takes and (not self.needs_int8 or _has_int8(gpu))


# The first that fits is taken: the highest opset of a form stands first.
FORMS = (
    Form("tensorrt", 18, "tensorrt-10", ("fp16", "int8")),
    Form("tensorrt", 18, "tensorrt-11"),
    # Named after the first board of its kind; what decides is whether the GPU computes INT8.
    Form("tensorrt", 13, "agx-xavier", ("fp16", "int8"), needs_int8=True),
    Form("tensorrt", 13, "jetson-nano", ("fp16",)),
    Form("tensorrt-rtx", 18, "tensorrt-rtx-sm{sm}"),
    Form("onnxruntime", 18, "onnxruntime"),
    Form("onnxruntime", 13, "onnxruntime-1.10"),
)


def choose_variant(device: Device, backend: str = "") -> Variant:
    """The variant for a device: with its preferred backend, or with the one named.

    Raises UserError when the device has no runtime, not the one named, or one of a form that is not made here.
    """
    snapshot = device.snapshot
    if not snapshot.backends:
        raise UserError(
            f"device '{device.name}' has no runtime to run a model with; look at 'efficientquant-agent doctor' there, "
            "or leave it out with --devices"
        )
    chosen = snapshot.backend(backend)
    if chosen is None:
        raise UserError(
            f"device '{device.name}' has no backend '{backend}' (it has: {_names(device)}); "
            "name one of these with --backend, or leave the device out with --devices"
        )
    gpu = snapshot.computing_gpu
    form = next((one for one in FORMS if one.fits(chosen, gpu)), None)
    if form is None:
        raise UserError(_refusal(device, chosen))
    return Variant(chosen.name, form.target.format(sm=gpu.compute_capability if gpu else 0))


def _refusal(device: Device, backend: Backend) -> str:
    flags = f"precision flags {', '.join(backend.precision_flags)}" if backend.precision_flags else "no precision flags"
    # The last of a form has its lowest opset.
    lowest = {one.name: one.opset for one in FORMS}
    known = ", ".join(f"{name} from opset {opset}" for name, opset in lowest.items())
    return (
        f"device '{device.name}' would run '{backend.name}', which builds from the form '{backend.form}' (opset "
        f"{backend.opset}, {flags}), and this controller makes: {known}; upgrade the older side, name another of its "
        f"backends with --backend (it has: {_names(device)}), or leave the device out with --devices"
    )


def _names(device: Device) -> str:
    return ", ".join(one.name for one in device.snapshot.backends)


def _has_int8(gpu: Gpu | None) -> bool:
    return gpu is not None and gpu.int8
