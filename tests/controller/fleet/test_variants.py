"""Tests of a device's backend and the target of its artifacts."""

from pathlib import Path
from typing import Any

import pytest
from efficientquant.artifact.exact_products import is_x86, products_saturate
from efficientquant.targets import Half, get_target
from efficientquant_agent.backends import known
from efficientquant_agent.host.device import DeviceFiles
from efficientquant_controller.errors import UserError
from efficientquant_controller.fleet.variants import EXACT_CPUS, Variant, choose_variant
from efficientquant_controller.model import Backend, Device, DeviceSnapshot, Gpu
from offers import offered

NANO = Gpu("NVIDIA Tegra X1", compute_capability=53, integrated=True, fp16=True)
XAVIER = Gpu("Xavier", compute_capability=72, integrated=True, fp16=True, int8=True)
RTX_3080 = Gpu("NVIDIA GeForce RTX 3080", compute_capability=86, fp16=True, int8=True, tf32=True)


def device(*backends: tuple[str, str] | Backend, gpu: Gpu | None = None, **snapshot: Any) -> Device:
    listed = tuple(backend if isinstance(backend, Backend) else offered(*backend) for backend in backends)
    gpus = () if gpu is None else (gpu,)
    return Device("d1", "bench-1", "0.1.0", 1, 0.0, DeviceSnapshot(backends=listed, gpus=gpus, **snapshot))


@pytest.mark.parametrize(
    ("backend", "gpu", "target"),
    [
        (("trt", "8.2.1.8"), NANO, "jetson-nano"),
        (("trt", "8.2.1.8"), None, "jetson-nano"),  # not known to compute INT8
        (("trt", "8.5.2.2"), XAVIER, "agx-xavier"),
        (("trt", "8.5.2.2"), NANO, "jetson-nano"),
        (("trt", "8.6.1"), RTX_3080, "agx-xavier"),
        (("trt", "10.0.1"), NANO, "tensorrt-10"),
        (("trt", "10.16.1.11"), RTX_3080, "tensorrt-10"),
        (("trt", "11.0.0"), RTX_3080, "tensorrt-11"),
        (("trt", "12.1"), RTX_3080, "tensorrt-11"),
        (("trt-rtx", "1.7.1"), RTX_3080, "tensorrt-rtx-sm86"),
        (("ort-cpu", "1.10.0"), None, "onnxruntime-1.10"),
        (("ort-cpu", "1.16.3"), None, "onnxruntime-1.10"),
        (("ort-cpu", "1.17.0"), None, "onnxruntime-1.17"),
        (("ort-cpu", "1.20.0"), None, "onnxruntime-1.20"),
        (("ort-cpu", "1.23.2"), None, "onnxruntime"),
        (("ort-cuda", "1.18.0"), RTX_3080, "onnxruntime-1.17"),
        (("ort-trt", "1.10.0"), NANO, "onnxruntime-1.10"),
        (("ort-cpu", "2.0"), None, "onnxruntime"),
        (("openvino-cpu", "2024.4.0"), None, "openvino"),
        (("openvino-cpu", "2026.4.1"), RTX_3080, "openvino"),
    ],
)
def test_runtime_version_and_gpu_decide_the_target(backend: tuple[str, str], gpu: Gpu | None, target: str) -> None:
    """INT8 decides for TensorRT 8, the SM for TensorRT-RTX, the version for the rest, and each target exists."""
    assert choose_variant(device(backend, gpu=gpu)) == Variant(backend[0], target)
    assert get_target(target).name == target


@pytest.mark.parametrize(
    ("backend", "products", "target"),
    [
        (("ort-cpu", "1.23.2"), ("vnni",), "onnxruntime-vnni"),
        (("ort-cpu", "1.23.2"), ("vnni", "amx"), "onnxruntime-vnni"),
        (("ort-cpu", "1.23.2"), ("dotprod",), "onnxruntime-vnni"),
        (("ort-cpu", "1.23.2"), ("dotprod", "i8mm"), "onnxruntime-vnni"),
        (("ort-cpu", "1.23.2"), ("amx",), "onnxruntime"),  # without VNNI, convolutions saturate
        (("ort-cpu", "1.23.2"), ("of a later agent",), "onnxruntime"),
        (("ort-cpu", "1.20.0"), ("vnni",), "onnxruntime-1.20"),
        (("ort-cpu", "1.17.0"), ("vnni",), "onnxruntime-1.17"),
        (("ort-cpu", "1.10.0"), ("vnni",), "onnxruntime-1.10"),
    ],
)
def test_the_cpu_decides_about_signed_weights(backend: tuple[str, str], products: tuple[str, ...], target: str) -> None:
    """A CPU whose integer products are exact gets signed weights from ONNX Runtime 1.23 on."""
    assert choose_variant(device(backend, cpu_dot_products=products)).target == target
    assert get_target(target).name == target


def test_the_agents_flags_agree_with_onnx_runtimes_kernels() -> None:
    """No CPU that gets signed weights saturates, and on x86 every other one does or lacks AVX2."""
    board = DeviceFiles()
    is_exact = not EXACT_CPUS.isdisjoint(board.cpu_dot_products())
    assert not (is_exact and products_saturate())
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    if is_x86() and "avx2" in flags:
        assert is_exact or products_saturate()


def test_a_gpu_gets_the_portable_form() -> None:
    """The CPU's products do not count where a GPU computes."""
    backend = Backend("gpu", "1.23", form="onnxruntime", opset=23, uses_gpu=True)
    assert choose_variant(device(backend, gpu=RTX_3080, cpu_dot_products=("vnni",))).target == "onnxruntime"


@pytest.mark.parametrize(
    "backend", [offered(backend.name, ".".join(map(str, form.since))) for backend in known() for form in backend.forms]
)
def test_every_backend_reads_what_it_is_sent(backend: Backend) -> None:
    """The target of each form that an agent may offer has an opset that the form reads."""
    target = get_target(choose_variant(device(backend, gpu=RTX_3080)).target)
    assert target.opset <= backend.opset
    assert (target.half is Half.BUILDER_FLAG) == bool(backend.precision_flags)


@pytest.mark.parametrize("capability", [75, 80, 86, 89, 120, 121])
def test_every_sm_that_tensorrt_rtx_builds_for_is_a_target(capability: int) -> None:
    """Each SM of TensorRT-RTX has its own target."""
    variant = choose_variant(device(("trt-rtx", "1.7.1"), gpu=Gpu("any", compute_capability=capability)))
    assert get_target(variant.target).compute_capability == capability


@pytest.mark.parametrize(
    ("version", "target"),
    [
        ("8.2.1.8+cuda10", "jetson-nano"),
        ("10", "tensorrt-10"),
        ("10rc1.2", "tensorrt-10"),
        ("9.11.0", "jetson-nano"),
        ("", "jetson-nano"),
        ("unknown", "jetson-nano"),
    ],
)
def test_a_version_is_read_as_numbers(version: str, target: str) -> None:
    """Versions compare by their leading numbers, and a version without numbers gets the narrowest form."""
    assert choose_variant(device(("trt", version), gpu=NANO)).target == target


def test_the_preferred_backend_is_taken() -> None:
    """A device runs its backend of the lowest preference unless another is requested."""
    both = device(("ort-cpu", "1.10.0"), ("trt", "8.2.1"), gpu=NANO)
    assert choose_variant(both) == Variant("trt", "jetson-nano")
    assert choose_variant(both, "ort-cpu") == Variant("ort-cpu", "onnxruntime-1.10")


def test_names_decide_nothing() -> None:
    """A board with another name gets the same variant, because only capabilities decide."""
    plain = device(("trt", "8.5.2"), gpu=XAVIER)
    named = device(("trt", "8.5.2"), gpu=XAVIER, board="Jetson Nano", l4t="R32.7.4", cpu_model="RTX 3080")
    assert choose_variant(plain) == choose_variant(named)


def test_a_backend_that_is_not_there_is_a_sentence() -> None:
    """The error names the device, its backends, and both ways out."""
    with pytest.raises(UserError) as caught:
        choose_variant(device(("trt", "8.2.1"), ("ort-cpu", "1.10.0"), gpu=NANO), "ort-cuda")
    assert str(caught.value) == (
        "device 'bench-1' has no backend 'ort-cuda' (it has: trt, ort-cpu); name one of these with --backend, or leave "
        "the device out with --devices"
    )


@pytest.mark.parametrize("backend", ["", "ort-cpu"])
def test_a_device_without_a_runtime_is_a_sentence(backend: str) -> None:
    """A device without a runtime is refused, and the error says where to look."""
    with pytest.raises(
        UserError, match="device 'bench-1' has no runtime to run a model with; look at 'efficientquant-"
    ):
        choose_variant(device(), backend)


KNOWN = (
    "this controller makes: tensorrt from opset 13, tensorrt-rtx from opset 18, onnxruntime from opset 13, openvino "
    "from opset 18"
)
TOY = Backend("toy", "1.0", preference=1, form="toy", opset=18)


@pytest.mark.parametrize(
    ("backend", "described"),
    [
        (TOY, "'toy', which builds from the form 'toy' (opset 18, no precision flags)"),
        (Backend("trt", "7", form="tensorrt", opset=11), "'tensorrt' (opset 11, no precision flags)"),
        (Backend("trt", "9", form="tensorrt", opset=13), "'tensorrt' (opset 13, no precision flags)"),
        (Backend("o", "1", form="onnxruntime", opset=18, precision_flags=("fp16", "int8")), "flags fp16, int8)"),
        (Backend("ort-cpu", "1.23"), "the form '' (opset 0, no precision flags)"),
    ],
)
def test_a_form_that_is_not_made_is_a_sentence(backend: Backend, described: str) -> None:
    """The error names device, backend, form, the known forms and what to do, whatever the backend's name."""
    with pytest.raises(UserError) as caught:
        choose_variant(device(backend))

    sentence = str(caught.value)
    assert sentence.startswith(f"device 'bench-1' would run '{backend.name}', which builds from the form ")
    assert f"{described}, and {KNOWN}; upgrade" in sentence
    assert f"with --backend (it has: {backend.name}), or leave the device out with --devices" in sentence


def test_another_backend_of_the_device_can_be_named() -> None:
    """A preferred backend of an unknown form does not prevent a request for another backend."""
    assert choose_variant(device(TOY, ("ort-cpu", "1.17.0")), "ort-cpu") == Variant("ort-cpu", "onnxruntime-1.17")


@pytest.mark.parametrize(
    ("opset", "flags", "target"),
    [
        (13, ("fp16", "int8"), "agx-xavier"),
        (13, ("fp16",), "jetson-nano"),
        (18, ("fp16", "int8", "bf16"), "tensorrt-10"),
        (18, ("fp16",), "jetson-nano"),
        (18, (), "tensorrt-11"),
    ],
)
def test_an_artifact_asks_for_no_flag_that_the_builder_lacks(opset: int, flags: tuple[str, ...], target: str) -> None:
    """A builder that only takes FP16 gets no artifact that asks for INT8."""
    backend = Backend("b", "1", form="tensorrt", opset=opset, precision_flags=flags)

    assert choose_variant(device(backend, gpu=XAVIER)).target == target


@pytest.mark.parametrize("flags", [("int8",), ("int4", "bf16")])
def test_flags_that_no_artifact_has_are_refused(flags: tuple[str, ...]) -> None:
    """The error names the flags that fit no form."""
    backend = Backend("b", "1", form="tensorrt", opset=13, precision_flags=flags)

    with pytest.raises(UserError, match=f"opset 13, precision flags {', '.join(flags)}"):
        choose_variant(device(backend, gpu=XAVIER))


def test_of_two_backends_of_one_name_the_preferred_counts() -> None:
    """The target and the time limit come from the same backend."""
    second = Backend("d", "1", preference=1, form="onnxruntime", opset=18)
    both = device(Backend("d", "1", preference=5, form="onnxruntime", opset=13, builds_engines=True), second)

    assert choose_variant(both, "d").target == "onnxruntime-1.17"
    assert both.snapshot.backend("d") == second
