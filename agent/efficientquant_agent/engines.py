"""The engines of this device: taken from the plan cache, or built by a child process of their own."""

from typing import Callable, NamedTuple

from efficientquant_agent.backends.base import BuildReport
from efficientquant_agent.records import Assignment
from efficientquant_agent.watching import Watcher


class Plan(NamedTuple):
    """An engine as a file, and how it was made."""

    path: str
    report: BuildReport
    from_cache: bool
    key: str


class Engines:
    """Builds what the cache does not have."""

    def __init__(self, path: str, limit_bytes: int, log: Callable[[str], None]) -> None:
        self._log = log

    def get(
        self,
        assignment: Assignment,
        artifact_path: str,
        scratch: str,
        watcher: Watcher,
        progress: Callable[[str, float], None],
    ) -> Plan:
        """Return the engine for an artifact; raises RunFailedError ("build_failed", "build_oom", "unsupported_op")."""
        raise NotImplementedError

    def forget(self, plan: Plan) -> None:
        """Drop an engine that does not load."""
