"""How often `compare` finds a true difference, as the table of docs/comparing.md.

Usage: python tests/bench/studies/power.py

It draws jobs whose processes and campaigns vary by documented spreads, with a fixed seed. The table has the share of
pairs that were called faster, of those that are 2, 5 or 10 % faster.
"""

import random
from statistics import median

from efficientquant_controller.analysis.between import limit_of_chance, widened
from efficientquant_controller.analysis.comparison import Answer, compare

# The standard deviations of the medians of a campaign's processes, and of the levels of campaigns.
PROCESSES = 0.02
CAMPAIGNS = 0.01
EFFECTS = (0.02, 0.05, 0.10)
# Repeats a side, and other campaigns of each job, or None where both sides share a campaign.
CASES = ((3, None), (10, None), (3, 5), (10, 5), (3, 20), (10, 20))
PAIRS = 500


def main() -> int:
    """Print the table."""
    print(table(), end="")
    return 0


def table() -> str:
    """Return the table in Markdown."""
    lines = ["| repeats a side | other campaigns of each job | 2 % | 5 % | 10 % |", "|---|---|---|---|---|"]
    for repeats, others in CASES:
        shares = " | ".join(f"{power(repeats, others, effect):.0%}".replace("%", " %") for effect in EFFECTS)
        lines.append(f"| {repeats} | {'both in one campaign' if others is None else others} | {shares} |")
    return "\n".join(lines) + "\n"


def power(repeats: int, others: int | None, effect: float) -> float:
    """Return the share of pairs whose true difference is found."""
    draw = random.Random(f"{repeats} {others} {effect}")
    return sum(answer(draw, repeats, others, effect) is Answer.BETTER for _ in range(PAIRS)) / PAIRS


def answer(draw: random.Random, repeats: int, others: int | None, effect: float) -> Answer:
    """Return the answer about a job that is faster by the effect."""
    levels = (1 + effect, 1.0)
    if others is None:
        return compare(*(processes(draw, level, repeats) for level in levels)).answer
    compared = compare(*(campaign(draw, level, repeats) for level in levels))
    history = ([median(campaign(draw, level, repeats)) for _ in range(others)] for level in levels)
    return widened(compared, limit_of_chance(*history)).answer


def campaign(draw: random.Random, level: float, repeats: int) -> list[float]:
    """Return the medians of one campaign's processes, which share its level."""
    return processes(draw, level * draw.lognormvariate(0, CAMPAIGNS), repeats)


def processes(draw: random.Random, level: float, repeats: int) -> list[float]:
    """Return the medians of some processes."""
    return [level * draw.lognormvariate(0, PROCESSES) for _ in range(repeats)]


if __name__ == "__main__":
    raise SystemExit(main())
