"""The agent's exceptions, as one tree.

AgentError
├── UsageError                      exit code 2: the user must change something
│   └── StateDirectoryInUseError
├── SessionRefusedError             the controller refused, and a retry cannot help
│   ├── NameTakenError              exit code 2
│   ├── ProtocolRefusedError        exit code 3
│   └── SupersededError             exit code 4
├── ControllerUnreachableError      try again later
│   ├── ControllerTooOldError       the controller does not know the request
│   ├── ControllerBusyError         the controller answers and cannot serve now
│   ├── StaleEpochError             the controller knows a newer session of this device
│   └── AnswerTimeoutError          the connection stands and no answer came in time
├── ReportRefusedError              this result will never be accepted
├── DamagedResultError              a stored result has other bytes than were stored
├── NoRoomError                     the disk has no room for a run's files
├── RunFailedError                  a typed outcome of one run
├── ClockError                      clocks or a power mode that cannot be set or restored
└── SensorError                     a sensor exists and cannot be read
    └── TegrastatsError             a line that is not tegrastats'
"""


class AgentError(Exception):
    """Base class of everything that the agent raises on purpose."""


class UsageError(AgentError):
    """A user's request that cannot be carried out.

    The message is one sentence for the user.
    """

    exit_code = 2


class StateDirectoryInUseError(UsageError):
    """A state directory that another agent holds."""

    def __init__(self, path: str, pid: str) -> None:
        super().__init__(
            "state directory {} is in use by the agent with pid {}; stop that one, or give this one another "
            "--name or --state-dir".format(path, pid or "unknown")
        )
        self.path = path
        self.pid = pid


class SessionRefusedError(AgentError):
    """A session that the controller refused for good.

    The message is the controller's own sentence.
    """

    exit_code = 2


class NameTakenError(SessionRefusedError):
    """A name that another connected device has."""

    exit_code = 2


class ProtocolRefusedError(SessionRefusedError):
    """A controller with another protocol version."""

    exit_code = 3


class SupersededError(SessionRefusedError):
    """A newer session of this same device.

    The agent exits, so that two copies do not compete.
    """

    exit_code = 4


class ControllerUnreachableError(AgentError):
    """A controller that is absent or cannot help now.

    `reason` says why, for a person. `answered` is true when a controller answered and failed at this request.
    """

    def __init__(self, reason: str, answered: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answered = answered


class ControllerTooOldError(ControllerUnreachableError):
    """A controller that is older than the request."""


class ControllerBusyError(ControllerUnreachableError):
    """A controller that answers and cannot serve now.

    Its database may be locked, full or restarting.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__("the controller cannot serve now: {}".format(sentence), answered=True)


class StaleEpochError(ControllerUnreachableError):
    """A session that is not newer than the last one.

    The state directory is older than the controller's database, such as that of an older disk image.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, answered=True)


class AnswerTimeoutError(ControllerUnreachableError):
    """A request without an answer in time, over a connection that stands."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__("the controller has not answered within {:g} s".format(timeout_s), answered=True)


class ReportRefusedError(AgentError):
    """A result that the controller will never accept."""


class DamagedResultError(AgentError):
    """A stored result that has other bytes than were stored.

    `attempt` and `lease_id` are 0 and empty when the header is damaged, too.
    """

    def __init__(self, reason: str, attempt: int = 0, lease_id: str = "") -> None:
        super().__init__(reason)
        self.attempt = attempt
        self.lease_id = lease_id


class NoRoomError(AgentError):
    """A disk that has no room for the files of a run.

    The run waits until there is room.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.error = error


class RunFailedError(AgentError):
    """A run that ended in a typed failure.

    `failure_type` is one of those listed in fleet.proto.
    """

    def __init__(self, failure_type: str, message: str) -> None:
        super().__init__(message)
        self.failure_type = failure_type


class ClockError(AgentError):
    """A failure to set, verify or restore clocks, in one sentence.

    `code` is one of "no_access", "unsupported", "unknown_power_mode", "helper_failed", "not_reached", "not_restored",
    "closed".
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SensorError(AgentError):
    """A sensor that exists but cannot be read or understood.

    It is neither absent (None) nor zero.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__("{}: {}".format(path, reason))
        self.path = path
        self.reason = reason


class TegrastatsError(SensorError):
    """A line of tegrastats in which no value can be trusted.

    `line` holds its first 80 characters.
    """

    def __init__(self, line: str, reason: str) -> None:
        super().__init__("tegrastats", "{}: {!r}".format(reason, line[:80]))
        self.line = line[:80]
