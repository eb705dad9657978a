"""Selection of a device's backend and target by its capabilities alone."""

from dataclasses import dataclass

from efficientquant_controller.errors import UserError
from efficientquant_controller.model import Backend, Device, DeviceSnapshot, Gpu

# The CPUs whose products of unsigned with signed codes are exact in all of ONNX Runtime's kernels. AMX is not among
# them: its CPUs have VNNI too, and where a virtual machine hides that, convolutions saturate.
EXACT_CPUS = frozenset({"vnni", "dotprod", "i8mm"})


@dataclass(frozen=True)
class Variant:
    """A backend of a device and the target of its artifacts."""

    backend: str
    target: str


@dataclass(frozen=True)
class Form:
    """A form of artifact, its opset and its target."""

    name: str
    opset: int
    target: str  # "{sm}" stands for the GPU's compute capability, e.g. 86
    flags: tuple[str, ...] = ()  # the precision flags that the artifact may ask the builder for
    needs_int8: bool = False  # whether the GPU must compute INT8
    needs_exact_products: bool = False  # whether it is computed on a CPU of `EXACT_CPUS`

    def fits(self, backend: Backend, snapshot: DeviceSnapshot) -> bool:
        """Tell whether a backend builds from this form on this device."""
        reads_form = backend.form == self.name and backend.opset >= self.opset
        # Without flags the types in the file decide the precision, so the builder must have no flags either.
        accepts_flags = set(self.flags) <= set(backend.precision_flags) if self.flags else not backend.precision_flags
        has_int8 = not self.needs_int8 or _has_int8(snapshot.computing_gpu)
        is_exact = not self.needs_exact_products or (not backend.uses_gpu and _is_exact(snapshot))
        return reads_form and accepts_flags and has_int8 and is_exact


# The first form that fits is used, so the highest opset of a form comes first.
FORMS = (
    Form("tensorrt", 18, "tensorrt-10", ("fp16", "int8")),
    Form("tensorrt", 18, "tensorrt-11"),
    # These targets have the name of their first board. Only the GPU's INT8 support decides between them.
    Form("tensorrt", 13, "agx-xavier", ("fp16", "int8"), needs_int8=True),
    Form("tensorrt", 13, "jetson-nano", ("fp16",)),
    Form("tensorrt-rtx", 18, "tensorrt-rtx-sm{sm}"),
    # Only this release: which kernels an older one has for a CPU was never tried, and unsigned codes are right on all.
    Form("onnxruntime", 23, "onnxruntime-vnni", needs_exact_products=True),
    Form("onnxruntime", 23, "onnxruntime"),
    Form("onnxruntime", 21, "onnxruntime-1.20"),
    Form("onnxruntime", 18, "onnxruntime-1.17"),
    Form("onnxruntime", 13, "onnxruntime-1.10"),
    Form("openvino", 18, "openvino"),
)


def choose_variant(device: Device, backend: str = "") -> Variant:
    """Return the variant for a device's preferred or named backend.

    Raises UserError when the device has no backend, lacks the named one, or needs a form that is unknown here.
    """
    snapshot = device.snapshot
    if not snapshot.backends:
        raise UserError(
            f"device '{device.name}' has no runtime to run a model with; look at 'efficientquant-agent doctor' there, "
            "or leave it out with --devices"
        )
    selected = snapshot.backend(backend)
    if selected is None:
        raise UserError(
            f"device '{device.name}' has no backend '{backend}' (it has: {_names(device)}); "
            "name one of these with --backend, or leave the device out with --devices"
        )
    form = next((form for form in FORMS if form.fits(selected, snapshot)), None)
    if form is None:
        raise UserError(_refusal(device, selected))
    gpu = snapshot.computing_gpu
    return Variant(selected.name, form.target.format(sm=gpu.compute_capability if gpu else 0))


def _refusal(device: Device, backend: Backend) -> str:
    flags = f"precision flags {', '.join(backend.precision_flags)}" if backend.precision_flags else "no precision flags"
    # The last entry of a form has its lowest opset.
    lowest = {form.name: form.opset for form in FORMS}
    known = ", ".join(f"{name} from opset {opset}" for name, opset in lowest.items())
    return (
        f"device '{device.name}' would run '{backend.name}', which builds from the form '{backend.form}' (opset "
        f"{backend.opset}, {flags}), and this controller makes: {known}; upgrade the older side, name another of its "
        f"backends with --backend (it has: {_names(device)}), or leave the device out with --devices"
    )


def _names(device: Device) -> str:
    return ", ".join(backend.name for backend in device.snapshot.backends)


def _is_exact(snapshot: DeviceSnapshot) -> bool:
    return not EXACT_CPUS.isdisjoint(snapshot.cpu_dot_products)


def _has_int8(gpu: Gpu | None) -> bool:
    return gpu is not None and gpu.int8
