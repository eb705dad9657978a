"""The text, mark and style of a pivot's cells."""

from collections.abc import Mapping
from dataclasses import dataclass

from efficientquant_controller.analysis.comparison import MIN_EFFECT, Answer
from efficientquant_controller.cli.tables.footnotes import Footnotes
from efficientquant_controller.cli.tables.gains import Gain
from efficientquant_controller.cli.tables.pivot import Cell
from efficientquant_controller.model import JobState

ABSENT = "–"
BEST, UNSURE, SAME, THROTTLED, RUNNING = "*", "≈", "=", "!", "…"
# What each mark means, in the order of the legend.
MEANINGS: Mapping[str, str] = {
    BEST: "best, or as good",
    UNSURE: "not enough data to tell from fp32",
    SAME: f"same as fp32 within {MIN_EFFECT * 100:.3g} %",
    THROTTLED: "INVALID: throttled",
    RUNNING: "not finished",
}
# Colours of Okabe and Ito, which the colour-blind can tell apart. Each goes with a mark.
STYLES: Mapping[str, str] = {"best": "bold #009e73", "unsure": "dim", "bad": "#d55e00", "": ""}


@dataclass(frozen=True)
class CellText:
    """A cell's parts, each in a column of its own."""

    value: str = ""
    mark: str = ""
    gain: str = ""
    interval: str = ""
    style: str = ""


def cell_text(cell: Cell, footnotes: Footnotes) -> CellText:
    """Return the parts of a cell."""
    value = ABSENT if cell.value is None else three_digits(cell.value)
    if not JobState(cell.row["state"]).ended:
        return CellText(value, RUNNING)
    if bad := footnotes.mark(cell.row):
        return CellText(value, bad, style="bad")
    gain, interval = gain_text(cell.gain)
    if cell.best:
        return CellText(value, BEST, gain, interval, "best")
    return CellText(value, "", gain, interval, "unsure" if gain in (UNSURE, SAME) else "")


def without_gain(text: CellText) -> CellText:
    """Return a cell without its gain.

    A mark says where no gain was shown.
    """
    return CellText(text.value, text.mark or (text.gain if text.gain in (UNSURE, SAME) else ""), style=text.style)


def only_gain(text: CellText) -> CellText:
    """Return a cell with its gain in place of its value."""
    if not text.gain:
        return CellText(ABSENT, "" if text.mark == BEST else text.mark, style=text.style)
    return CellText(text.gain, text.mark, interval=text.interval, style=text.style)


def gain_text(gain: Gain | None) -> tuple[str, str]:
    """Return a gain and its interval, both empty without a gain.

    `≈` and `=` stand for a gain that was not shown.
    """
    if gain is None:
        return "", ""
    known = {Answer.NOT_ENOUGH_DATA: UNSURE, Answer.SAME: SAME}.get(gain.answer, f"{ratio_text(gain.ratio)}×")
    if gain.low is None or gain.high is None:
        return known, ""
    return known, f"{ratio_text(gain.low)}–{ratio_text(gain.high)}"


def ratio_text(ratio: float) -> str:
    """Return a ratio with two decimals, or three digits from 10 on."""
    return f"{ratio:.2f}" if ratio < 9.995 else three_digits(ratio)


def three_digits(value: float) -> str:
    """Return a number with three digits, and whole numbers in full.

    12.345 is 12.3, and 1234.5 is 1234.
    """
    if value == 0:
        return "0"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"
