"""The messages and services spoken between EfficientQuant's controller, agents and clients."""

__version__ = "0.1.0"

# Raised when a peer that does not know a change would misread or miss it. Both sides state
# theirs when a session opens; see docs/wire.md for what counts as such a change.
PROTOCOL_VERSION = 3
