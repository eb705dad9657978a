"""The errors of the fleet side.

FleetError
├── UserError                a request that cannot be done, in one sentence (exit code 2)
│   ├── NotFoundError        a campaign, device or artifact that does not exist
│   ├── NameTakenError       a device name that belongs to another device
│   ├── VersionSkewError     a peer that speaks another protocol version
│   └── StoreError           a database that cannot be opened or written
│       └── StoreVersionError   … because another version of the product wrote it
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
