"""SHA-256 hashes, with hashlib loaded at first use.

hashlib loads OpenSSL, which takes 4 MiB that an idle agent does not need.
"""

from typing import Any


def new_sha256(data: bytes = b"") -> Any:
    """Return a new hashlib object for SHA-256, updated with `data`."""
    import hashlib  # not at the top, see above

    return hashlib.sha256(data)
