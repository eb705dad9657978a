"""The journal of changed clocks and power modes."""

import json
import os
from typing import List, Tuple, Union

from efficientquant_agent.errors import ClockError
from efficientquant_agent.files import sync_directory, write_json_durably

# An argument of a verb of the helper: the number of a power mode, a range of clocks, or the UUID of a GPU.
Argument = Union[str, int]


class Journal:
    """The changes to undo, oldest first, in a file.

    The file survives this process and a power cut.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def entries(self) -> List[Tuple[str, List[Argument]]]:
        """Return (verb, arguments) of each change.

        Raises ClockError when the file is not a journal. A journal of an earlier release has numbers as text, which the
        helper's command line accepts as well.
        """
        try:
            with open(self.path, encoding="utf-8") as stream:
                return [(str(verb), list(arguments)) for verb, arguments in json.load(stream)["undo"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClockError(
                "not_restored",
                "{} cannot be read; run `efficientquant-clocks restore` as root, check the power mode, then remove "
                "the file".format(self.path),
            ) from error

    def add(self, verb: str, *arguments: Argument) -> None:
        """Record how to undo the next change."""
        self._write(self.entries() + [(verb, list(arguments))])

    def drop(self, verb: str, *arguments: Argument) -> None:
        """Remove a change that has been undone, if it is listed."""
        left = self.entries()
        if (verb, list(arguments)) not in left:
            return
        # Of several equal changes, the last is undone first.
        del left[len(left) - 1 - left[::-1].index((verb, list(arguments)))]
        if left:
            self._write(left)
        else:
            os.unlink(self.path)
            sync_directory(os.path.dirname(self.path))

    def _write(self, entries: List[Tuple[str, List[Argument]]]) -> None:
        write_json_durably(self.path, json.dumps({"undo": entries}).encode())
