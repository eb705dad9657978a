"""Readings of a repeat for the rules of the guard, as text.

A repeat is a row of the view `run_results`.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]
Read = Callable[[Row], str]

# Options and conditions that have their own rules.
KNOWN_OPTIONS = frozenset(
    {
        *("timing_mode", "sync_mode", "cuda_graph", "transfers", "memory_kind", "intra_op_threads"),
        *("measuring_thread_cpus", "cuda_library"),
    }
)
KNOWN_CONDITIONS = KNOWN_OPTIONS | frozenset(
    {
        *("power_mode", "clocks", "rail_set"),
        # Conditions of agents before protocol 3. The store keeps them as columns.
        *(f"clock_{domain}_target_hz" for domain in ("gpu", "emc", "cpu")),
    }
)


def column(name: str) -> Read:
    """Return a function that reads a column.

    It sorts a mapping by its keys.
    """

    def read(row: Row) -> str:
        value = row.get(name)
        if isinstance(value, Mapping):
            return ", ".join(f"{key}={value[key]}" for key in sorted(value))
        return "" if value is None else str(value)

    return read


def condition(name: str) -> Read:
    """Return a function that reads a condition.

    It is the agent's condition, or else the option that the runtime ran with.
    """
    return lambda row: str(mapping(row, "conditions").get(name) or mapping(row, "session_options").get(name) or "")


def mapping(row: Row, name: str) -> Mapping[str, Any]:
    """Read a column with a mapping or its JSON text.

    The result is empty when there is none.
    """
    value = row.get(name) or {}
    decoded = json.loads(value) if isinstance(value, str) else value
    return decoded if isinstance(decoded, Mapping) else {}


def weights(row: Row) -> str:
    """Read the weights, or the hash of a checkpoint's content."""
    sha256 = str(row.get("weights_sha256") or "")
    return f"checkpoint {sha256[:12]}" if sha256 else str(row.get("weights") or "")


def device_key(row: Row) -> str:
    """Read a device's id, or its name in rows without ids.

    Names are reused, ids are not.
    """
    return str(row.get("device_id") or device(row))


def device(row: Row) -> str:
    """Read a device's name."""
    return str(row.get("device") or row.get("device_id") or "")


def runtime(row: Row) -> str:
    """Read a runtime's backend, release and providers."""
    words = (str(row.get("backend") or ""), runtime_release(row), str(row.get("providers") or ""))
    return " ".join(word for word in words if word)


def runtime_release(row: Row) -> str:
    """Read the first two numbers of a runtime's version.

    TensorRT 8.2 and 8.5 are two runtimes.
    """
    return ".".join(str(row.get("runtime_version") or "").split(".")[:2])


def driver(row: Row) -> str:
    """Read the version of the NVIDIA driver.

    It is empty on a Jetson, whose driver is part of L4T.
    """
    gpus = row.get("gpus") or ()
    decoded = json.loads(gpus) if isinstance(gpus, str) else gpus
    return ", ".join(dict.fromkeys(str(gpu["driver_version"]) for gpu in decoded if gpu.get("driver_version")))


def cuda_graph(row: Row) -> str:
    """Read whether a CUDA graph ran.

    The reason why none could be captured, after a colon, is dropped.
    """
    return condition("cuda_graph")(row).partition(":")[0]


def cuda_library(row: Row) -> str:
    """Read which library gave TensorRT its streams and buffers.

    Agents that do not name it had libcudart alone. Other runtimes have none.
    """
    return condition("cuda_library")(row) or ("libcudart" if condition("cuda_graph")(row) else "")


def transfers(row: Row) -> str:
    """Read whether a latency counts its copies of inputs and outputs.

    Memory that a GPU shares with the CPU needs no copies. A runtime without this option counts them.
    """
    left_out = condition("transfers")(row).startswith("none") and condition("memory_kind")(row) != "mapped"
    return "left out" if left_out else "counted"


def other_options(row: Row) -> str:
    """Read the runtime's options without their own rules."""
    options = mapping(row, "session_options")
    return ", ".join(f"{name}={options[name]}" for name in sorted({*options} - KNOWN_OPTIONS))


def locked(row: Row) -> str:
    """Read whether the clocks were locked."""
    state = condition("clocks")(row)
    return state if state in ("", "locked") else "not locked"


def clock_target(domain: str) -> Read:
    """Return a function that reads the target of a domain's locked clocks."""

    def read(row: Row) -> str:
        target_hz = row.get(f"clock_{domain}_target_hz")
        return f"{target_hz / 1e6:.6g} MHz" if target_hz and target_hz > 0 else ""

    return read


def page_cache(row: Row) -> str:
    """Read whether the file was in the page cache before loading."""
    cold = row.get("load_cold")
    return "" if cold is None else "not in the page cache" if cold else "in the page cache"


def rail_set(row: Row) -> str:
    """Read the set of rails of the energy."""
    return str(row.get("rail_set") or condition("rail_set")(row))


def layer_counts(row: Row) -> str:
    """Read how many layers computed in each type."""
    counts = mapping(row, "realised_precision")
    return ", ".join(f"{counts[name]} × {name}" for name in sorted(counts) if counts[name])


def layer_types(row: Row) -> str:
    """Read the types that the layers computed in."""
    counts = mapping(row, "realised_precision")
    return "+".join(name for name in sorted(counts) if counts[name])
