"""What can go wrong in the agent, as one tree.

AgentError
├── UsageError                      exit code 2: the user must change something
│   └── StateDirectoryInUseError
├── SessionRefusedError             the controller said no, and trying again cannot help
│   ├── NameTakenError              exit code 2
│   ├── ProtocolRefusedError        exit code 3
│   └── SupersededError             exit code 4
├── ControllerUnreachableError      try again later
│   └── ControllerTooOldError       it is one, and does not know the question
├── ReportRefusedError              this result will never be accepted
├── RunFailedError                  a typed outcome of one run
└── SensorError                     a sensor is there and cannot be read
    └── TegrastatsError             a line that is not tegrastats'
"""


class AgentError(Exception):
    """Base of everything the agent raises on purpose."""


class UsageError(AgentError):
    """Something the user asked for cannot be done; the message is one sentence for them."""

    exit_code = 2


class StateDirectoryInUseError(UsageError):
    """Another agent holds the state directory."""

    def __init__(self, path: str, pid: str) -> None:
        super().__init__(
            "state directory {} is in use by the agent with pid {}; stop that one, or give this one another "
            "--name or --state-dir".format(path, pid or "unknown")
        )
        self.path = path
        self.pid = pid


class SessionRefusedError(AgentError):
    """The controller refused the session for good; the message is its own sentence."""

    exit_code = 2


class NameTakenError(SessionRefusedError):
    """Another connected device has this name."""

    exit_code = 2


class ProtocolRefusedError(SessionRefusedError):
    """The two sides do not speak the same protocol version."""

    exit_code = 3


class SupersededError(SessionRefusedError):
    """A newer session of this same device was opened; exiting keeps two copies from fighting."""

    exit_code = 4


class ControllerUnreachableError(AgentError):
    """No controller, or none that can help now; `reason` says why, for a person.

    `answered` tells a controller that failed at one request from one that is not there.
    """

    def __init__(self, reason: str, answered: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answered = answered


class ControllerTooOldError(ControllerUnreachableError):
    """A controller from before this question existed."""


class ReportRefusedError(AgentError):
    """The controller will never accept this result."""


class RunFailedError(AgentError):
    """A run ended in a typed failure; `failure_type` is one of those listed in fleet.proto."""

    def __init__(self, failure_type: str, message: str) -> None:
        super().__init__(message)
        self.failure_type = failure_type


class SensorError(AgentError):
    """A sensor exists but cannot be read or understood: neither absent (None) nor zero."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__("{}: {}".format(path, reason))
        self.path = path
        self.reason = reason


class TegrastatsError(SensorError):
    """A line of which nothing could be trusted; `line` holds its beginning."""

    def __init__(self, line: str, reason: str) -> None:
        super().__init__("tegrastats", "{}: {!r}".format(reason, line[:80]))
        self.line = line[:80]
