"""A command-line parser that explains each mistake in one sentence."""

import argparse
import difflib
import re
from fractions import Fraction
from typing import Any, Callable, List, NoReturn, Sequence

from efficientquant_agent import streams
from efficientquant_agent.errors import UsageError
from efficientquant_agent.streams import quoted

# A single letter is a binary unit, as for dd and systemd.
_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _UNITS.update({_letter: 1024**_power, _letter + "ib": 1024**_power, _letter + "b": 1000**_power})
_LARGEST_BYTES = 1024**5
_SIZE = re.compile(r"([+-]?)([0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})\s*([A-Za-z]*)")


class Parser(argparse.ArgumentParser):
    """An argparse parser without abbreviations that raises UsageError.

    It suggests the options and commands that exist.
    """

    def __init__(self, commands: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self._commands = commands

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Return the parsed options.

        Raises UsageError with one sentence about the first invalid argument.
        """
        options, unknown = self.parse_known_args(self._with_values(arguments))
        if unknown:
            raise UsageError(self._about(unknown[0]))
        return options

    def error(self, message: str) -> NoReturn:
        """Raise argparse's complaint as a UsageError."""
        named = re.match(r"argument (?:\S+/)?(--?[\w-]+)(?: [A-Z:]+)?: (.*)", message, re.DOTALL)
        if named is None:
            raise UsageError("{}; '{} --help' lists the options".format(message, self.prog))
        option, complaint = named.groups()
        if "ignored explicit argument" in complaint:
            raise UsageError("{} takes no value; pass {} alone".format(option, option))
        raise UsageError("{} needs a value; '{} --help' says which".format(option, self.prog))

    def _print_message(self, message: str, file: Any = None) -> None:
        del file  # only --help and --version print
        if message:
            streams.answer(message.rstrip("\n"))

    def _with_values(self, arguments: Sequence[str]) -> List[str]:
        """Join each value to its option.

        Without that, argparse would read -1GiB as an option.
        """
        joined = []  # type: List[str]
        rest = list(arguments)
        while rest:
            argument = rest.pop(0)
            action = self._option_string_actions.get(argument)
            if action is not None and action.nargs is None and rest and rest[0] not in self._option_string_actions:
                argument = "{}={}".format(argument, rest.pop(0))
            joined.append(argument)
        return joined

    def _about(self, argument: str) -> str:
        word = argument.split("=", 1)[0]
        options = sorted(name for name in self._option_string_actions if name.startswith("--"))
        if word in self._commands:
            return "'{1}' comes first: {0} {1}, then its options".format(self.prog, word)
        if word.startswith("-"):
            meant = suggestion(word, options)
            return "there is no option {}; {}".format(
                quoted(word),
                "{} '{} --help' lists all".format(meant, self.prog) if meant else "there is " + ", ".join(options),
            )
        if self._commands:
            named_so = [option for option in options if option == "--" + word.lower()]
            meant = suggestion(word, [*self._commands, *named_so])
            return "there is no command {}; {}there is {}, and without a command the agent runs".format(
                quoted(word), meant and meant + " ", ", ".join(self._commands)
            )
        return "{} takes no {}; its options begin with --, '{} --help' lists them".format(
            self.prog.split()[-1], quoted(word), self.prog
        )


def suggestion(word: str, known: Sequence[str]) -> str:
    """Return "did you mean …?" with known words close to this one.

    Empty when no known word is close.
    """
    bare = {name.lstrip("-").lower(): name for name in known}
    typed = word.lstrip("-").lower().replace("_", "-")
    close = [name for name in bare if typed and name.startswith(typed)]
    close = close or difflib.get_close_matches(typed, list(bare), 1)
    return "did you mean {}?".format(" or ".join(bare[name] for name in close)) if close else ""


def size_of(option: str) -> Callable[[str], int]:
    """Return a parser of an option's sizes in bytes.

    It accepts "2GiB", "500MB", "4G" or bytes, from 0 to 1 PiB, and raises UsageError for anything else.
    """

    def read(text: str) -> int:
        match = _SIZE.fullmatch(text.strip())
        unit = match and _UNITS.get(match.group(3).lower())
        if match is None or unit is None:
            raise UsageError(
                "{} {} is not a size; pass bytes, or a number with a unit such as 500MB, 2GiB or 1.5GiB".format(
                    option, quoted(text)
                )
            )
        size_bytes = Fraction(match.group(2)) * unit
        if match.group(1) == "-" and size_bytes:
            raise UsageError("{} {} is negative; pass 0 or more".format(option, quoted(text)))
        if size_bytes > _LARGEST_BYTES:
            raise UsageError("{} {} is more than 1 PiB; pass what the disk can hold".format(option, quoted(text)))
        if unit == 1 and size_bytes.denominator != 1:
            raise UsageError("{} {} is not a whole number of bytes; is a unit missing?".format(option, quoted(text)))
        return int(size_bytes)

    return read


def seconds_of(option: str, min_s: float, max_s: float) -> Callable[[str], float]:
    """Return a parser of an option's seconds between two bounds.

    It raises UsageError for anything else.
    """

    def read(text: str) -> float:
        try:
            value_s = float(text)
        except ValueError:
            value_s = float("nan")
        if not min_s <= value_s <= max_s:
            raise UsageError(
                "{} {} is not a number of seconds from {:g} to {:g}".format(option, quoted(text), min_s, max_s)
            )
        return value_s

    return read
