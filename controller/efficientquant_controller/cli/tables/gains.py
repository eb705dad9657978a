"""What a variant gained over its FP32 twin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from efficientquant_controller.analysis.comparison import MIN_EFFECT, REFUSED, Answer
from efficientquant_controller.analysis.verdict import Grade
from efficientquant_controller.cli.tables.measures import SIZE, Measure
from efficientquant_controller.model import TWIN_RECIPE

Row = Mapping[str, Any]
_BETTER = ("faster", "smaller", "less")
_WORSE = ("slower", "larger", "more")
# Where a row keeps its twin.
_LEFT_OUT = "twin"


@dataclass(frozen=True)
class Gain:
    """How many times better a variant is, with its 90 % interval.

    A file's size is exact and has no interval.
    """

    answer: Answer
    ratio: float
    low: float | None = None
    high: float | None = None

    @property
    def known(self) -> bool:
        """Whether the variant differs from FP32."""
        return self.answer in (Answer.BETTER, Answer.WORSE)


class Twins:
    """The FP32 rows among some rows, by campaign, device and model."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._twins = {_place(row): row for row in rows if row["recipe"] == TWIN_RECIPE}

    def of(self, row: Row) -> Row | None:
        """Return a row's twin, even if it was left out, or None."""
        return self._twins.get(_place(row)) or row.get(_LEFT_OUT)

    def gain(self, row: Row, measure: Measure) -> Gain | None:
        """Return what a row gained, or None where nothing may be said.

        Nothing is said about an INVALID row, or against one.
        """
        twin = self.of(row)
        if row["recipe"] == TWIN_RECIPE or not measure.gain or twin is None:
            return None
        if measure.gain == SIZE:
            return _exact(row["size_ratio"])
        if Grade.INVALID in (row["verdict"], twin["verdict"]):
            return None
        ratio, answer = row.get(f"{measure.gain}_ratio"), row.get(f"{measure.gain}_answer")
        if ratio is None or answer in ("", None, REFUSED):
            return None
        limits = (row[f"{measure.gain}_ratio_{end}"] for end in ("low", "high"))
        return Gain(_answer(answer), ratio, *limits)


def with_twins(rows: Sequence[Row]) -> list[Row]:
    """Return rows that keep their twins, whatever a filter leaves out."""
    twins = Twins(rows)
    return [{**row, _LEFT_OUT: twins.of(row)} for row in rows]


def _place(row: Row) -> tuple[str, str, str, str]:
    return row["campaign_id"], row["device_id"], row["device"], row["model"]


def _answer(word: str) -> Answer:
    if word in _BETTER:
        return Answer.BETTER
    return Answer.WORSE if word in _WORSE else Answer(word)


def _exact(ratio: float | None) -> Gain | None:
    if ratio is None:
        return None
    least = 1 + MIN_EFFECT
    answer = Answer.BETTER if ratio >= least else Answer.WORSE if ratio <= 1 / least else Answer.SAME
    return Gain(answer, ratio)
