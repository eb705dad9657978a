"""The errors of the fleet side.

FleetError
├── UserError                a request that cannot be done, in one sentence (exit code 2)
│   ├── NotFoundError        a campaign, device or artifact that does not exist
│   ├── NameTakenError       a device name that belongs to another device
│   ├── VersionSkewError     a peer that speaks another protocol version
│   ├── UnstorableError      a result that no retry can store
│   └── StoreError           a database that cannot be opened or written
│       ├── StoreBusyError      … now, and may be later
│       ├── StoreVersionError   … because another version of the product wrote it
│       ├── LeaseHeldError      … because another controller serves it
│       └── LeaseLostError      … because another controller has taken over
├── DamagedMessageError      a message whose bytes changed on the way
└── StaleSessionError        a message from a session that a newer session has superseded
"""


class FleetError(Exception):
    """The base class of the fleet's errors."""


class UserError(FleetError):
    """An error that the user can correct.

    The message says what was requested, what exists and what to do.
    """


class NotFoundError(UserError):
    """A name or id that does not exist."""


class NameTakenError(UserError):
    """A device name that belongs to another device."""


class VersionSkewError(UserError):
    """A peer whose protocol version this side does not speak."""


class StoreError(UserError):
    """A database that cannot be opened or written."""


class StoreVersionError(StoreError):
    """A database that another version of the product wrote."""


class StaleSessionError(FleetError):
    """A message from a session that a newer session has superseded."""


class UnstorableError(UserError):
    """A result that the database can never hold.

    A number is out of range, a text is nested too deeply, or the bytes are no result.
    """


class StoreBusyError(StoreError):
    """A database that is locked, or whose server is away."""


class LeaseHeldError(StoreError):
    """A database that another controller serves.

    `left_s` is the rest of its lease, and `renewal` changes when it is renewed. `may_be_gone` is true when nothing
    tells whether that controller still runs.
    """

    def __init__(self, holder: str, left_s: float, renewal: tuple[str, float], *, may_be_gone: bool) -> None:
        super().__init__(
            f"another controller ({holder}) serves this database; stop it, pass another --db, or start again in "
            f"{left_s:.0f} s if it does not run any more"
        )
        self.holder = holder
        self.left_s = left_s
        self.renewal = renewal
        self.may_be_gone = may_be_gone


class LeaseLostError(StoreError):
    """A database that another controller has taken over."""


class DamagedMessageError(FleetError):
    """A message whose bytes changed on the way.

    The same message may be sent again.
    """
