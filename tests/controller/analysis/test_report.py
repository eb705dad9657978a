"""Tests of the sentences about results."""

import pytest
from efficientquant_controller.analysis.report import readable, verdict_sentences


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123456, "s", "12.35 ms"),
        (1.5, "s", "1.5 s"),
        (0.25, "J", "250 mJ"),
        (4.2, "W", "4.2 W"),
        (5 << 20, "B", "5.00 MiB"),
    ],
)
def test_values_for_a_person(value: float, unit: str, text: str) -> None:
    """Values in SI units are formatted in units for a person."""
    assert readable(value, unit) == text


def row(**values):
    return {"campaign_id": "c1", "device": "nano", "model": "m", "recipe": "int8", "verdict": "A", **values}


def test_a_verdict_names_the_rules_that_were_broken() -> None:
    """A row below grade A has a line with its broken rules, without unchecked rules."""
    reasons = ["the coefficient of variation is 9 %", "not checked: clocks"]
    rows = [row(), row(verdict="B", verdict_reasons=reasons)]
    assert verdict_sentences(rows) == ["nano · m · int8: B, the coefficient of variation is 9 %"]
