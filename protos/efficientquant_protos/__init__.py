"""The messages and services between EfficientQuant's controller, agents and clients."""

__version__ = "0.1.0"

# Increased when a peer that does not know a change would misread or miss it. Both sides state
# theirs when a session opens. docs/wire.md says what counts as such a change.
PROTOCOL_VERSION = 4
