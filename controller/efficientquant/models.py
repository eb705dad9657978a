"""timm models: their creation, their weights and their input."""

import dataclasses
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.layers.config import set_fused_attn
from torch import Tensor, nn

from efficientquant.checkpoints.model_names import require_model, require_published
from efficientquant.checkpoints.weights import count_classes, fit_weights, read_weights
from efficientquant.errors import InputSizeError, PretrainedUnavailableError

HUB_TIMEOUT_S = 5.0


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """The input of a model.

    `shape` is (C, H, W). The other fields say how an image is resized, cropped and normalized.
    """

    shape: tuple[int, int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    crop_mode: str = "center"


def create_model(
    name: str, weights: str | Path = "pretrained", *, seed: int = 0, input_size: int | None = None
) -> nn.Module:
    """Return a timm classifier in eval mode, with its attention unfused.

    `weights` is "pretrained", "random" (drawn from `seed`) or a file that `read_checkpoint` reads. The classifier in
    the file decides the number of classes. `input_size` is the side of the square input in pixels. None keeps the
    model's own size. Raises UnknownModelError, InputSizeError, PretrainedUnavailableError, CheckpointError.
    """
    require_model(name)
    set_fused_attn(False)  # a fused attention hides its softmax from capture
    options = _size_options(name, input_size)
    if weights == "pretrained":
        return _create_pretrained(name, options)
    if weights == "random":
        return _create_random(name, seed, options)
    return _create_from_file(name, Path(weights), seed, options)


def create_skeleton(name: str) -> nn.Module:
    """Return a timm classifier on the meta device, to study its structure.

    Its tensors have shapes but no values. Raises UnknownModelError.
    """
    require_model(name)
    set_fused_attn(False)
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, pretrained=False)
    return model.eval()


def input_spec(model: nn.Module) -> InputSpec:
    """Return the input of a timm model from its data configuration."""
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return InputSpec(
        shape=tuple(config["input_size"]),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
    )


def checkpoint_notes(model: nn.Module) -> list[str]:
    """Return the notes on a model's weights.

    They say which of a checkpoint's sets of weights was loaded.
    """
    return list(getattr(model, "checkpoint_notes", ()))


def synthetic_images(spec: InputSpec, count: int = 32, seed: int = 0) -> Tensor:
    """Return seeded pictures (count, C, H, W) in the model's input range.

    They have the 1/f spectrum of natural images, and are the default calibration data. Provenance calls them synthetic.
    """
    channels, height, width = spec.shape
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, height, width, generator=generator)
    # Natural images have channels that mostly agree.
    noise = 0.8 * noise.mean(1, keepdim=True) * channels**0.5 + 0.6 * noise
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :])
    amplitude = 1.0 / frequency.clamp_min(1.0 / max(height, width))
    pictures = torch.fft.irfft2(torch.fft.rfft2(noise) * amplitude, s=(height, width))
    pictures = pictures / pictures.std(dim=(1, 2, 3), keepdim=True)
    pixels: Tensor = (0.45 + 0.22 * pictures).clamp(0.0, 1.0)
    mean = torch.tensor(spec.mean).reshape(1, -1, 1, 1)
    std = torch.tensor(spec.std).reshape(1, -1, 1, 1)
    images: Tensor = (pixels - mean) / std
    return images


def _size_options(name: str, input_size: int | None) -> dict[str, Any]:
    """Return timm's options for a square input of another size.

    Models with a fixed input size also need `img_size`.
    """
    if input_size is None:
        return {}
    config = timm.models.get_pretrained_cfg(name)
    channels = config.input_size[0] if config is not None else 3
    options: dict[str, Any] = {"pretrained_cfg_overlay": {"input_size": (channels, input_size, input_size)}}
    if config is not None and config.fixed_input_size:
        options["img_size"] = input_size
    return options


def _require_input(name: str, model: nn.Module) -> None:
    """Raise InputSizeError unless the model runs at its input size."""
    spec = input_spec(model)
    try:
        with torch.no_grad():
            model(torch.zeros(1, *spec.shape))
    except (RuntimeError, AssertionError, ValueError, IndexError, ZeroDivisionError) as error:
        raise InputSizeError(name, spec.shape[1:], _first_line(error)) from error


def _create_pretrained(name: str, options: dict[str, Any]) -> nn.Module:
    require_published(name)
    config = timm.models.get_pretrained_cfg(name)
    cached = _cached_weights(config)
    try:
        if cached is None:
            _probe_hub()
        overlay = options.pop("pretrained_cfg_overlay", {}) | ({"file": cached} if cached else {})
        model = _instantiate(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except OSError as error:  # the hub's errors and those of sockets derive from it
        raise PretrainedUnavailableError(name, f"the hub cannot be reached: {_first_line(error)}") from error
    _require_input(name, model)
    return model


def _instantiate(name: str, **options: Any) -> nn.Module:
    """Return a timm model in eval mode.

    Raises InputSizeError when it cannot be built for the requested size.
    """
    try:
        model: nn.Module = timm.create_model(name, **options).eval()
    except (AssertionError, ValueError, TypeError, ZeroDivisionError, RuntimeError, MemoryError) as error:
        overlay = options.get("pretrained_cfg_overlay", {})
        if "input_size" not in overlay:
            raise
        raise InputSizeError(name, overlay["input_size"][1:], _first_line(error)) from error
    return model


def _cached_weights(config: Any) -> str | None:
    """Return the file of an earlier download, or None."""
    if not config.hf_hub_id:
        return None
    repository, _, revision = config.hf_hub_id.partition("@")
    filename = config.hf_hub_filename or "model.safetensors"
    cached = huggingface_hub.try_to_load_from_cache(repository, filename, revision=revision or None)
    return cached if isinstance(cached, str) else None


def _probe_hub() -> None:
    """Raise OSError within seconds if the hub cannot be reached.

    The hub's own client retries for most of a minute.
    """
    request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")  # noqa: S310 - https
    try:
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S).close()  # noqa: S310 - the hub's own address
    except urllib.error.HTTPError as answer:
        answer.close()  # any answer means that the hub can be reached


def _create_random(name: str, seed: int, options: dict[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _instantiate(name, pretrained=False, **options)
        _require_input(name, model)
        _spread_attention(model)
        _settle_batch_norm(model, seed)
    return model


def _spread_attention(model: nn.Module) -> None:
    """Draw the weights of hidden linears with unit gain.

    timm's usual 0.02 leaves every softmax of a random network almost uniform.
    """
    get_classifier = getattr(model, "get_classifier", None)
    head = get_classifier() if callable(get_classifier) else None
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            nn.init.normal_(module.weight, std=module.in_features**-0.5)


def _settle_batch_norm(model: nn.Module, seed: int) -> None:
    """Set batch norm's statistics from one pass of synthetic images.

    Without them, a random network's activations would shrink or grow from layer to layer.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(synthetic_images(input_spec(model), count=4, seed=seed))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
        if isinstance(norm.num_batches_tracked, Tensor):
            norm.num_batches_tracked.zero_()


def _create_from_file(name: str, path: Path, seed: int, options: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        expected = timm.create_model(name, pretrained=False).state_dict()
    weights = read_weights(path, expected)
    classes = count_classes(name, weights)
    head = {} if classes is None else {"num_classes": classes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _instantiate(name, pretrained=False, **head, **options)
    state = fit_weights(name, model, weights)
    _require_input(name, model)
    model.load_state_dict(state)
    model.checkpoint_notes = weights.notes  # type: ignore[assignment] # copies of the model keep them
    return model


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
