"""The bounds of every number that comes from outside.

The command line and the wire share them.
"""

from dataclasses import dataclass

from efficientquant_controller.errors import UserError

LABEL_CHARACTERS = 100
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class Bounds:
    """The lowest and the highest value of a quantity.

    `unit` is a plural noun. `whole` requires an integer.
    """

    low: float
    high: float
    unit: str = ""
    whole: bool = True

    def check(self, name: str, value: float) -> None:
        """Raise UserError unless `value` is within the bounds.

        NaN and infinity are not. `name` is the quantity's name for the user.
        """
        if not self._holds(value):
            raise self._refusal(name, str(value))

    def read(self, name: str, text: str | float) -> float:
        """Return the number in `text`, as an int if `whole`.

        Raises UserError for anything but a number within the bounds.
        """
        try:
            value = (int if self.whole else float)(_plain_digits(text))
        except (ValueError, OverflowError):
            raise self._refusal(name, str(text)) from None
        if not self._holds(value):
            raise self._refusal(name, str(text))
        return value

    @property
    def span(self) -> str:
        """The bounds as text, e.g. `0 to 600 seconds`."""
        return f"{_plain(self.low)} to {_plain(self.high)}{f' {self.unit}' if self.unit else ''}"

    def _holds(self, value: float) -> bool:
        return self.low <= value <= self.high and (not self.whole or value == int(value))

    def _refusal(self, name: str, text: str) -> UserError:
        shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
        return UserError(f"{name} {shown}: give a {'whole ' if self.whole else ''}number from {self.span}")


def check_label(name: str, text: str) -> None:
    """Raise UserError unless a label is short, printable and without a comma."""
    if len(text) > LABEL_CHARACTERS or not text.isprintable() or "," in text:
        shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
        raise UserError(f"{name} {shown!r}: give at most {LABEL_CHARACTERS} printable characters, without a comma")


def _plain_digits(text: str | float) -> str | float:
    """Return `text` unchanged.

    Raises ValueError for texts that only Python reads as a number: `1_0`, `٣`.
    """
    if isinstance(text, str) and (not text.isascii() or "_" in text):
        raise ValueError(text)
    return text


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


# More than 100 repeats would take weeks.
REPEATS = Bounds(1, 100)
# The seeds that NumPy's generators accept, on the devices too.
SEED = Bounds(0, 2**32 - 1)
# 0 leaves the number to the runtime. No board and few servers have more than 256 cores.
THREADS = Bounds(0, 256)
IDLE_S = Bounds(0, 600, "seconds", whole=False)
# 0 never waits. A chip shuts down before it reaches the upper end.
START_BELOW_C = Bounds(0, 125, "degrees Celsius", whole=False)
# All images are held in memory at once.
IMAGES = Bounds(1, 4096)
# Images are read batch by batch, so a data set of any size will do.
IMAGE_LIMIT = Bounds(1, 2**31 - 1)
INPUT_SIZE = Bounds(8, 2048, "pixels")
# The confidence interval of three repeats is seldom narrower than the lower end.
MIN_EFFECT_PERCENT = Bounds(0.1, 100, "percent", whole=False)
HEARTBEAT_INTERVAL_S = Bounds(0.05, 3600, "seconds", whole=False)
LEASE_S = Bounds(0.1, 86_400, "seconds", whole=False)
# Port 0 is only for listening, where it means any free port.
PORT = Bounds(1, 65_535)
LISTEN_PORT = Bounds(0, 65_535)
