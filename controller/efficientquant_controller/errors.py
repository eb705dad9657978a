"""What can go wrong on the fleet side.

FleetError
├── UserError                what a user asked for cannot be done; one sentence, exit code 2
│   ├── NotFoundError        a campaign, device or artifact that does not exist
│   ├── NameTakenError       a device name that belongs to another device
│   ├── VersionSkewError     a peer that speaks another protocol version
│   └── StoreError           a database that cannot be opened or written
│       └── StoreVersionError   … because another version of the product wrote it
└── StaleSessionError        a message from a session that a newer one has superseded
"""


class FleetError(Exception):
    """Base of the fleet's own errors."""


class UserError(FleetError):
    """The user can mend this; the message says what was asked, what exists and what to do."""


class NotFoundError(UserError):
    """What was named does not exist."""


class NameTakenError(UserError):
    """The device name belongs to another device."""


class VersionSkewError(UserError):
    """The peer speaks a protocol version this side does not."""


class StoreError(UserError):
    """The database cannot be opened or written."""


class StoreVersionError(StoreError):
    """The database was written by a newer version of the product."""


class StaleSessionError(FleetError):
    """A newer session of the same device exists."""
