"""Choice of a checkpoint's weights, and their fit to a model."""

import dataclasses
import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from efficientquant.checkpoints.files import read_checkpoint
from efficientquant.errors import CheckpointError

# Averages over the training are better than the last step's weights. timm takes them first too.
_EMA_KEYS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model_state_dict", "ema_model"),
    *("ema_weights", "params_ema", "ema", "averaged_model", "swa_state_dict", "swa_model"),
)
_PLAIN_KEYS = (
    *("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params", "module"),
    *("backbone", "checkpoint"),
)
# A prefix of averaged weights has one of these words: `ema.`, `model_ema.module.`, `net_ema.`, `swa_model.`.
_EMA_WORDS = {"ema", "swa", "averaged"}
# Wrappers that torch puts around modules, anywhere in a name.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Tensors that training adds to a model's, and those that a model computes by itself.
_IGNORED = ("num_batches_tracked", "n_averaged", "total_ops", "total_params", "relative_position_index", "attn_mask")
_NESTING = 3
_LOOKALIKES = 6
_SHOWN_KEYS = 6
_FILTER_ERRORS = (RuntimeError, LookupError, ValueError, TypeError, AttributeError, AssertionError)


@dataclasses.dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint by their names in the model.

    `notes` say which of several sets of weights was chosen.
    """

    path: Path
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> Weights:
    """Return a file's weights under a model's names.

    `expected` is the state of the model. Its values are not looked at. Averaged (EMA) weights are preferred, and
    prefixes of wrappers are removed. Raises CheckpointError.
    """
    stored = read_checkpoint(path)
    key, tensors = _find_tensors(stored)
    if not tensors:
        advice = "save model.state_dict(), alone or under 'state_dict'"
        raise CheckpointError(path, f"holds no state dict ({_contents(stored)}); {advice}")
    notes = []
    if key in _EMA_KEYS:
        notes.append(f"checkpoint {path.name}: the averaged (EMA) weights under {key!r} are taken")
    elif averages := next((known for known in _EMA_KEYS if isinstance(stored.get(known), Mapping | list)), None):
        notes.append(f"checkpoint {path.name}: {averages!r} is no state dict, so no averaged (EMA) weights are taken")
    tensors = {_unwrapped(name): tensor for name, tensor in tensors.items()}
    prefix, *rivals = _rank_prefixes(tensors, expected)
    if prefix:
        if _is_ema(prefix) and key not in _EMA_KEYS:
            notes.append(f"checkpoint {path.name}: the averaged (EMA) weights under {prefix!r} are taken")
        elif rivals:
            listed = ", ".join(repr(rival) for rival in rivals)
            notes.append(f"checkpoint {path.name}: the weights under {prefix!r} are taken, not those under {listed}")
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return Weights(path, tensors, tuple(notes))


def fit_weights(name: str, model: nn.Module, weights: Weights) -> dict[str, Tensor]:
    """Return the state to load into the model.

    It has timm's own names and shapes. Raises CheckpointError, saying what differs, unless every tensor has its
    counterpart.
    """
    if any("/" in key for key in weights.tensors):
        return _from_jax(name, model, weights.path)
    expected = model.state_dict()
    state = dict(weights.tensors)
    if _difference(state, expected) is not None:
        state = _converted(model, weights.tensors, expected)
    _require_fit(name, model, state, weights.path)
    state = {key: state.get(key, value) for key, value in expected.items()}
    for key, tensor in state.items():
        if tensor.is_quantized or tensor.layout is not torch.strided:
            raise CheckpointError(weights.path, f"{key!r} is quantized or sparse; save the float weights")
        if expected[key].is_floating_point() and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(weights.path, f"{key!r} holds {kind} where {name} has floats; save the float weights")
        if not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(
                weights.path, f"{key!r} holds NaN or infinity: the training failed, or the file is damaged"
            )
    return state


def count_classes(name: str, weights: Weights) -> int | None:
    """Return the number of classes of the checkpoint's own head.

    Returns None without a head that timm knows of.
    """
    config = timm.models.get_pretrained_cfg(name)
    classifiers = config.classifier if config is not None else None
    for classifier in [classifiers] if isinstance(classifiers, str) else classifiers or ():
        head = weights.tensors.get(f"{classifier}.weight")
        if head is not None and head.dim() > 0 and len(head) > 0:
            return len(head)
    jax_head = next((tensor for key, tensor in weights.tensors.items() if key.endswith("head/kernel")), None)
    return jax_head.shape[-1] if jax_head is not None else None


def _from_jax(name: str, model: nn.Module, path: Path) -> dict[str, Tensor]:
    """Return the state that timm makes of JAX's weights in an .npz.

    Raises CheckpointError where parts are left out.
    """
    load = getattr(model, "load_pretrained", None)
    if load is None:
        raise CheckpointError(path, f"holds JAX weights, which timm converts for some models, but not for {name}")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    try:
        load(str(path))
    except _FILTER_ERRORS as error:
        raise CheckpointError(path, f"holds JAX weights of another model than {name} ({error})") from error
    state: dict[str, Tensor] = model.state_dict()
    left = next((key for key, tensor in state.items() if not bool(torch.isfinite(tensor.float()).all())), None)
    if left is not None:
        raise CheckpointError(path, f"lacks {left!r} {list(state[left].shape)} of {name}, or holds NaN there")
    return state


def _find_tensors(stored: object, depth: int = 0) -> tuple[str, dict[str, Tensor]]:
    """Return the key and the tensors of the innermost known dictionary.

    Averaged (EMA) weights come first. The key is empty where the tensors have none.
    """
    if not isinstance(stored, Mapping) or depth > _NESTING:
        return "", {}
    for key in (*_EMA_KEYS, *_PLAIN_KEYS):
        inner, tensors = _find_tensors(stored.get(key), depth + 1)
        if tensors:
            return key if key in _EMA_KEYS or inner not in _EMA_KEYS else inner, tensors
    tensors = {str(name): value for name, value in stored.items() if isinstance(value, Tensor)}
    return "", {name: tensor for name, tensor in tensors.items() if not name.endswith("_extra_state")}


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _contents(stored: object) -> str:
    """Describe a checkpoint that has no state dict."""
    if isinstance(stored, Mapping):
        names = [repr(name) for name in stored]
        more = f" and {len(names) - _SHOWN_KEYS} more" if len(names) > _SHOWN_KEYS else ""
        return f"its keys are {', '.join(names[:_SHOWN_KEYS])}{more}" if names else "it is empty"
    return f"it is a {type(stored).__name__}"


def _rank_prefixes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes with the largest number of the model's tensors.

    Those of averaged weights come first.
    """
    candidates = {""}
    for wanted in expected:
        if not wanted.endswith(_IGNORED):
            candidates |= {name[: -len(wanted)] for name in tensors if name.endswith(f".{wanted}")}
        if len(candidates) > 1:
            break
    counts = {prefix: sum(f"{prefix}{key}" in tensors for key in expected) for prefix in candidates}
    best = (prefix for prefix in candidates if counts[prefix] == max(counts.values()))
    return sorted(best, key=lambda prefix: (not _is_ema(prefix), len(prefix), prefix))


def _is_ema(prefix: str) -> bool:
    return not _EMA_WORDS.isdisjoint(re.split(r"[._]", prefix))


def _converted(model: nn.Module, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors after timm's conversion of the original weights.

    Returns them unchanged where that does not fit.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return dict(tensors)
    try:
        converted = dict(convert(dict(tensors), model))
    except _FILTER_ERRORS:
        return dict(tensors)
    return converted if _difference(converted, expected) is None else dict(tensors)


def _difference(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that does not fit.

    It is missing, of another shape, or without counterpart. Returns None where all fit.
    """
    for key, tensor in expected.items():
        if key not in state and not key.endswith(_IGNORED):
            return key
        if key in state and state[key].shape != tensor.shape:
            return key
    return next((key for key in sorted(state.keys() - expected.keys()) if not key.endswith(_IGNORED)), None)


def _require_fit(name: str, model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError unless the state fits.

    The error names the first tensor and what differs.
    """
    expected = model.state_dict()
    key = _difference(state, expected)
    if key is None:
        return
    advice = f"pass weights that were trained for {name}, or the model that they were trained for"
    if key not in expected:
        raise CheckpointError(path, f"has {key!r} {list(state[key].shape)}, which {name} lacks; {advice}")
    if key in state:
        problem = f"{key!r} has shape {list(state[key].shape)} where {name} has {list(expected[key].shape)}"
        reason = _explain(name, key, state, expected)
        channels = reason if "input channel" in reason else ""
        raise CheckpointError(path, f"{channels}{problem}; {advice}{'' if channels else reason}{_hint(name, state)}")
    missing = [wanted for wanted in expected if wanted not in state and not wanted.endswith(_IGNORED)]
    more = f" and {len(missing) - 1} more of {len(expected)} tensors" if len(missing) > 1 else ""
    problem = f"lacks {key!r} {list(expected[key].shape)}{more} of {name}"
    raise CheckpointError(path, f"{problem}; {advice}{_hint(name, state)}")


def _explain(name: str, key: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return what a difference of shapes means.

    It can be input channels, classes, or a wider or narrower model.
    """
    given, wanted = list(state[key].shape), list(expected[key].shape)
    first = key == _first_convolution(expected) and len(given) == len(wanted) == 4
    if first and given[1] != wanted[1] and given[:1] + given[2:] == wanted[:1] + wanted[2:]:
        return f"its stem takes {given[1]} against {wanted[1]} input channels: "
    differing = [other for other in expected if other in state and state[other].shape != expected[other].shape]
    config = timm.models.get_pretrained_cfg(name)
    classifiers = config.classifier if config is not None else None
    heads = [classifiers] if isinstance(classifiers, str) else list(classifiers or ())
    if all(other.rpartition(".")[0] in heads for other in differing):
        return f" (only the classifier differs: {given[0]} against {wanted[0]} classes)"
    return f" (another width or another model: {len(differing)} of {len(expected)} tensors differ in shape)"


def _first_convolution(expected: Mapping[str, Tensor]) -> str:
    return next((key for key, tensor in expected.items() if tensor.dim() == 4), "")


def _hint(name: str, state: Mapping[str, Tensor]) -> str:
    """Return a hint at another model that the tensors fit.

    The model is of the same family. The hint is empty without such a model.
    """
    family = timm.list_models(f"{name.partition('.')[0].partition('_')[0]}*")
    others = [model for model in family if model != name]
    for other in difflib.get_close_matches(name, others, n=_LOOKALIKES, cutoff=0.5):
        if _fits(other, state):
            return f"; the weights look like {other}"
    return ""


def _fits(name: str, state: Mapping[str, Tensor]) -> bool:
    with torch.device("meta"):
        expected = timm.create_model(name, pretrained=False).state_dict()
    config = timm.models.get_pretrained_cfg(name)
    classifiers: Any = config.classifier if config is not None else None
    heads = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers or ())
    names = [key for key in expected if not key.endswith(_IGNORED) and key.rpartition(".")[0] not in heads]
    return _same_names(names, state, heads) and all(state[key].shape == expected[key].shape for key in names)


def _same_names(names: Iterable[str], state: Mapping[str, Tensor], heads: tuple[str, ...]) -> bool:
    return set(names) == {key for key in state if not key.endswith(_IGNORED) and key.rpartition(".")[0] not in heads}
