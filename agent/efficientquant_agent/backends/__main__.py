"""Prints as one JSON line which runtimes work here; the daemon runs this in a short child process."""

import json
import platform
from typing import Any, Dict

from efficientquant_agent import backends
from efficientquant_agent.backends.base import BackendBrokenError


def find_runtimes() -> Dict[str, Any]:
    """Return {"library_versions": …, "backends": [{name, version, providers}], "broken": [sentence]}."""
    found = {"library_versions": {"python": platform.python_version()}, "backends": [], "broken": []}
    for backend in backends.known():
        try:
            info = backend.probe()
        except BackendBrokenError as error:
            found["broken"].append("backend '{}' does not work here: {}".format(backend.name, error))
            continue
        if info is not None:
            found["library_versions"].update(backend.library_versions())
            found["backends"].append(info._asdict())
    return found


if __name__ == "__main__":
    print(json.dumps(find_runtimes()))  # noqa: T201 — its only output
