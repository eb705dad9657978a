"""Standard output and error that can print any character.

They work with every locale, and after a reader of the pipe has exited.
"""

import codecs
import contextlib
import io
import os
import sys
from typing import Any, TextIO, Tuple, Union

from efficientquant_agent.errors import UsageError

_HANDLER = "efficientquant-readable"
# Substitutes for the agent's own characters on a terminal without them. Any other character is escaped.
_PLAIN = {"×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "°": "deg "}


def make_robust() -> None:
    """Make standard output and error replace characters they cannot encode.

    Without a locale (LC_ALL=C, a service without LANG) Python 3.6 prints ASCII, and so does any Python with
    PYTHONIOENCODING=ascii. A stream that was closed becomes /dev/null.
    """
    codecs.register_error(_HANDLER, _readable)
    for name in ("stdout", "stderr"):
        robust = _robust(getattr(sys, name))
        setattr(sys, name, robust)
        setattr(sys, "__{}__".format(name), robust)


def write_line(stream: Any, line: str) -> None:
    """Write a line and flush it.

    After the reader of a pipe has exited, all lines are discarded. Raises OSError when the line cannot be written for
    another reason, such as a full disk.
    """
    try:
        stream.write(line + "\n")
        stream.flush()
    except BrokenPipeError:
        _discard(stream)
    except OSError:
        _discard(stream)
        raise


def answer(text: str) -> None:
    """Print an answer to standard output.

    Raises UsageError when standard output cannot be written.
    """
    try:
        write_line(sys.stdout, text)
    except OSError as error:
        raise UsageError(
            "standard output cannot be written: {}; print to another place".format((error.strerror or "").lower())
        ) from error


def claim_standard_output() -> TextIO:
    """Reserve standard output for progress, and return it.

    What a runtime prints to standard output goes to standard error.
    """
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def quoted(text: str, max_length: int = 60) -> str:
    """Return a user's text in quotes, without control characters.

    A text of more than `max_length` characters is shortened.
    """
    text = encodable(text)
    if len(text) <= max_length:
        return repr(text)
    return "{} ({} characters)".format(repr(text[: max_length - 1] + "…"), len(text))


def encodable(text: str) -> str:
    """Return a text that every UTF-8 encoder accepts.

    Bytes of file names that Python could not decode are replaced.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold
        return text.encode("utf-8", "replace").decode("utf-8")


def _robust(stream: Any) -> Any:
    if stream is None:  # `>&-`
        return open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 — for the process's life
    if type(stream) is not io.TextIOWrapper:  # already replaced, for example by a test
        return stream
    if hasattr(stream, "reconfigure"):  # from Python 3.7 on
        stream.reconfigure(errors=_HANDLER)
        return stream
    stream.flush()
    encoding, line_buffering = stream.encoding, stream.line_buffering
    return io.TextIOWrapper(stream.detach(), encoding=encoding, errors=_HANDLER, line_buffering=line_buffering)


def _readable(error: UnicodeError) -> Tuple[Union[str, bytes], int]:
    """Encode characters that a stream's encoding lacks.

    A handler for `codecs.register_error`. Raises every error that is no UnicodeEncodeError.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    # Bytes that Python could not decode (PEP 383) are UTF-8 on today's boards.
    with contextlib.suppress(UnicodeError):
        text = text.encode("utf-8", "surrogateescape").decode("utf-8")
    plain = "".join(_PLAIN.get(character, character) for character in text)
    return plain.encode(error.encoding, "backslashreplace"), error.end


def _discard(stream: Any) -> None:
    """Redirect a stream's descriptor to /dev/null.

    Otherwise Python's last flush, when the process ends, would fail again.
    """
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
