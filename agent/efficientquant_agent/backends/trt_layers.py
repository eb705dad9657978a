"""The layers of a plan, from the engine inspector's output.

Works with TensorRT 8.2 to 11. The type that each layer computes in is derived from that output.
"""

import json
import re
from typing import Any, Dict, List, Mapping, Sequence

from efficientquant_agent.backends.base import EngineReport, InferenceError

# How the inspector writes types: "Half" alone from 10 on, before that inside a sentence about the layout.
_PRECISIONS = (
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
    ("fp8", re.compile(r"\bfp8\b", re.IGNORECASE)),
    ("bf16", re.compile(r"\bbf16\b|\bbfloat16\b", re.IGNORECASE)),
    ("fp16", re.compile(r"\bfp16\b|\bhalf\b", re.IGNORECASE)),
    ("fp32", re.compile(r"\bfp32\b|\bfloat\b", re.IGNORECASE)),
    ("int32", re.compile(r"\bint32\b", re.IGNORECASE)),
    ("int64", re.compile(r"\bint64\b", re.IGNORECASE)),
    ("bool", re.compile(r"\bbool\b", re.IGNORECASE)),
)


def read_layers(text: str) -> EngineReport:
    """Return the inspector's layers with a count of each type.

    The layers are in execution order. A layer computes in the type of its weights, or without weights in that of its
    first input or output with a known type. A plan without details has names only, and their precision is "unknown".
    Releases up to 8.6 may write control characters as they are. Raises InferenceError for a text that is no JSON with
    layers.
    """
    try:
        layers = json.loads(text, strict=False)["Layers"]
        if not isinstance(layers, list):
            raise TypeError("Layers is no list")
        return _report(layers)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InferenceError("the engine inspector's text is no JSON with layers: {!r}".format(error)) from error


def _report(layers: Sequence[Any]) -> EngineReport:
    rows: List[Dict[str, str]] = []
    for layer in layers:
        if isinstance(layer, str):
            rows.append({"name": layer, "type": "", "precision": "unknown"})
            continue
        rows.append(
            {
                "name": str(layer.get("Name", "")),
                "type": str(layer.get("ParameterType") or layer.get("LayerType", "")),
                "precision": _precision(layer),
                "tactic": str(layer.get("TacticName") or layer.get("TacticValue") or ""),
            }
        )
    counts: Dict[str, int] = {}
    for row in rows:
        counts[row["precision"]] = counts.get(row["precision"], 0) + 1
    return EngineReport(counts, tuple(rows))


def _precision(layer: Mapping[str, Any]) -> str:
    weights = layer.get("Weights") or {}
    texts = [str(weights.get("Type", ""))] if weights.get("Count") else []
    tensors = list(layer.get("Inputs") or []) + list(layer.get("Outputs") or [])
    for tensor in tensors:
        if isinstance(tensor, Mapping):
            texts.append(str(tensor.get("Datatype") or tensor.get("Format/Datatype", "")))
    for text in texts:
        for name, pattern in _PRECISIONS:
            if pattern.search(text):
                return name
    return "unknown"
