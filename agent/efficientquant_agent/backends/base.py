"""The contract of a backend: how one runtime loads a model and runs it once."""

import abc
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, Optional, Sequence

from efficientquant_agent.records import BackendInfo


class BackendBrokenError(Exception):
    """The runtime is installed and does not work."""


class LoadError(Exception):
    """The runtime does not accept the model; the message is the runtime's own sentence."""


class InferenceError(Exception):
    """The runtime failed while it ran the model; the message is the runtime's own sentence."""


class LoadedModel(abc.ABC):
    """A model that is ready to run."""

    # What the runtime really uses, in order, not what was asked for.
    providers: Sequence[str] = ()
    # Everything that changes the numbers.
    session_options: Mapping[str, str] = MappingProxyType({})

    @abc.abstractmethod
    def stage_inputs(self, count: int, seed: int) -> List[Any]:
        """Return `count` inputs for `run_once`, float32 uniform in [0, 1), the same for the same seed.

        MUST be staged completely: running one of them allocates nothing on the agent's side.
        Symbolic dimensions are 1. MUST raise LoadError for an input that is not float32.
        """

    @abc.abstractmethod
    def run_once(self, staged: Any) -> Any:
        """Run one inference and return when its outputs are on the host.

        MUST raise InferenceError with the runtime's sentence when it fails. MUST NOT log, copy or check anything
        that a bare call of the runtime would not.
        """


class Backend(abc.ABC):
    """One runtime. New hardware is one file here, with `BACKEND` set to its subclass, and one test file.

    The module MUST be importable where the runtime is missing: import it inside the methods.
    """

    # As it stands in assignments and results: "ort-cpu", "trt".
    name = ""

    @classmethod
    @abc.abstractmethod
    def probe(cls) -> Optional[BackendInfo]:
        """Return what is installed; MUST return None when nothing is, and raise BackendBrokenError when it fails."""

    @classmethod
    @abc.abstractmethod
    def library_versions(cls) -> Dict[str, str]:
        """Return the versions of the libraries that change the numbers; called only where probe() found something."""

    @classmethod
    @abc.abstractmethod
    def load(cls, model: bytes, intra_op_threads: int) -> LoadedModel:
        """Make a model ready to run; 0 threads is the runtime's own default.

        MUST raise LoadError with the runtime's sentence when the model is not accepted.
        """
