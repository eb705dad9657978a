"""Checks of a request against what devices report, before anything is built."""

from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches

from efficientquant_controller.errors import UserError
from efficientquant_controller.fleet.variants import Variant
from efficientquant_controller.model import Device, Measurement

# The command-line options that only some backends obey, by field of Measurement.
_OPTIONS = {
    "cuda_graph": "--cuda-graph",
    "sync_mode": "--sync",
    "memory_kind": "--buffers",
    "profile_layers": "--layers",
}
_CHANGES_CLOCKS = ("root", "helper")


def require_abilities(measurement: Measurement, devices: Sequence[tuple[Device, Variant]]) -> None:
    """Raise UserError when the devices do not support the requested measurement.

    Every device must support the clocks and the power mode. At least one selected backend must obey each option.
    """
    _require_clocks(measurement, [device for device, _ in devices])
    _require_options(measurement, devices)


def choose_devices(names: Sequence[str], connected: Sequence[Device], known: Sequence[Device]) -> list[Device]:
    """Return the named devices, or all connected ones for no names.

    Raises UserError when a device is offline or does not exist, or when none is connected.
    """
    if not connected and not names:
        raise UserError(
            "no device is connected; start one with 'efficientquant-agent --controller HOST:PORT --name NAME' and "
            "look at 'efficientquant devices'"
        )
    present = {str(device.name): device for device in connected}
    offline = {str(device.name) for device in known} - set(present)
    problems = [_absence(name, offline, present) for name in names if name not in present]
    if problems:
        raise UserError(f"{'; '.join(problems)} (connected: {', '.join(sorted(present)) or 'none'})")
    return [present[name] for name in names] if names else list(connected)


def _absence(name: str, offline: set[str], present: dict[str, Device]) -> str:
    if name in offline:
        return f"device '{name}' is offline, start its agent or leave it out with --devices"
    by_lowercase = {known.lower(): known for known in (*offline, *present)}
    close = get_close_matches(name.lower(), list(by_lowercase), n=1)
    meant = f", did you mean {by_lowercase[close[0]]}?" if close else ""
    return f"there is no device '{name}'{meant}"


def _require_clocks(measurement: Measurement, devices: Sequence[Device]) -> None:
    """Raise UserError when a device's clocks or power mode cannot be set."""
    if measurement.lock_clocks:
        lacking = [device for device in devices if not _has_clocks(device)]
        if lacking:
            raise UserError(
                f"{_named(lacking)} no clocks that can be locked (no Jetson, no NVIDIA GPU of its own); leave "
                "--lock-clocks out, or choose others with --devices"
            )
    if measurement.power_mode:
        lacking = [device for device in devices if not device.snapshot.power_mode]
        if lacking:
            raise UserError(
                f"{_named(lacking)} no power modes (nvpmodel); leave --power-mode out, or choose others with --devices"
            )
    if not measurement.lock_clocks and not measurement.power_mode:
        return
    powerless = [str(device.name) for device in devices if device.snapshot.clock_control not in _CHANGES_CLOCKS]
    if powerless:
        raise UserError(
            f"clocks or a power mode were asked for, and the agent on {_quoted(powerless)} may not set them; install "
            "its root helper there (agent/README.md, Clocks), or leave --lock-clocks and --power-mode out"
        )


def _require_options(measurement: Measurement, devices: Sequence[tuple[Device, Variant]]) -> None:
    """Raise UserError when no selected backend obeys an option."""
    defaults = {field.name: field.default for field in fields(Measurement)}
    changed = [name for name in _OPTIONS if getattr(measurement, name) != defaults[name]]
    backends = [device.snapshot.backend(variant.backend) for device, variant in devices]
    obeyed = {option for backend in backends if backend is not None for option in backend.options}
    refused = [name for name in changed if name not in obeyed]
    if not refused:
        return
    able = [
        f"{device.name}: {backend.name}"
        for device, _ in devices
        for backend in device.snapshot.backends
        if set(refused) <= set(backend.options)
    ]
    selected = ", ".join(f"{device.name}: {variant.backend}" for device, variant in devices)
    them = "it" if len(refused) == 1 else "them"
    raise UserError(
        f"no chosen backend obeys {' and '.join(_OPTIONS[name] for name in refused)} ({selected}); leave {them} out, "
        f"or choose one that does with --devices or --backend (among the chosen devices: {', '.join(able) or 'none'})"
    )


def _has_clocks(device: Device) -> bool:
    gpu = device.snapshot.computing_gpu
    return bool(device.snapshot.l4t) or (gpu is not None and not gpu.integrated)


def _named(devices: Sequence[Device]) -> str:
    names = _quoted([str(device.name) for device in devices])
    return f"device {names} has" if len(devices) == 1 else f"devices {names} have"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
