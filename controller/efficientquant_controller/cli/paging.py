"""Long output through the pager of the user's choice."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from efficientquant_controller.cli import output

if TYPE_CHECKING:
    from rich.console import Console

# What `less` does without options of the user: keep the colours, and leave the text on the terminal.
_LESS = "-FRX"


@contextmanager
def paged(console: "Console", *, allowed: bool = True) -> Iterator[None]:
    """Page what is printed if it is longer than the terminal.

    The pager is $PAGER, or `less` where that is not set. Nothing is paged unless a person reads: both stdin and stdout
    are terminals and `allowed` is true.
    """
    words = pager() if allowed and sys.stdin.isatty() and sys.stdout.isatty() else []
    if not words:
        yield
        return
    with console.capture() as captured:
        yield
    text = captured.get()
    if len(text.splitlines()) < console.height or not _page(words, text):
        sys.stdout.write(text)


def pager() -> list[str]:
    """Return the words of the pager's command, empty where there is none.

    An empty $PAGER, or `cat`, means no pager.
    """
    asked = os.environ.get("PAGER")
    try:
        words = shlex.split("less" if asked is None else asked)
    except ValueError as error:
        reason = str(error).lower()
        output.print_message(f"$PAGER is {asked!r}, which is no command ({reason}); printing without a pager")
        return []
    if words in ([], ["cat"]):
        return []
    if shutil.which(words[0]) is None:
        if asked is not None:
            output.print_message(f"the pager {words[0]!r} of $PAGER is not installed; printing without a pager")
        return []
    return words


def _page(words: list[str], text: str) -> bool:
    """Show a text in a pager. Return whether the pager started."""
    sys.stdout.flush()
    try:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, env={"LESS": _LESS, **os.environ})
    except OSError as error:
        output.print_message(f"the pager {words[0]!r} does not start ({error.strerror}); printing without it")
        return False
    try:
        process.communicate(text.encode(sys.stdout.encoding or "utf-8", "replace"))
    except KeyboardInterrupt:  # the pager decides what Ctrl-C means
        process.wait()
    return True
