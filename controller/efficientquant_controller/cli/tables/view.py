"""What a user wants to see of the results."""

from dataclasses import dataclass
from difflib import get_close_matches

from efficientquant_controller.cli.options import split_list
from efficientquant_controller.cli.tables.measures import MEASURES, Measure, measure_named
from efficientquant_controller.errors import UserError

DIMENSIONS = ("model", "device", "recipe")
SORTS = ("campaign", "name", "value", "gain")


@dataclass(frozen=True)
class View:
    """The measure of a table, its axes and its order.

    `down` and `across` have the named dimensions of each axis. `gains` shows gains in place of values.
    """

    measure: Measure = MEASURES["latency"]
    down: tuple[str, ...] = ()
    across: tuple[str, ...] = ()
    sort: str = SORTS[0]
    gains: bool = False


def choose_view(metric: str, down: str, across: str, sort: str, *, gains: bool) -> View:
    """Return the view of the options, as typed.

    Raises UserError for a value that does not exist.
    """
    measure = measure_named(metric)
    if gains and not measure.gain:
        compared = ", ".join(name for name, other in MEASURES.items() if other.gain)
        raise UserError(f"--gains: {metric} is not compared with fp32; choose --metric {compared}")
    named_down, named_across = _dimensions("--rows", down), _dimensions("--columns", across)
    if both := [name for name in named_down if name in named_across]:
        raise UserError(f"--rows and --columns both name {both[0]}; name it in one of them")
    if sort not in SORTS:
        close = get_close_matches(sort, SORTS, n=1)
        meant = f"did you mean {close[0]}? There" if close else "there"
        raise UserError(f"--sort {sort}: there is no such order; {meant} are {', '.join(SORTS)}")
    return View(measure, named_down, named_across, sort, gains)


def _dimensions(option: str, text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(split_list(text)))
    if unknown := [name for name in names if name not in DIMENSIONS]:
        raise UserError(f"{option} {text}: there is no {unknown[0]!r}; name one or more of {', '.join(DIMENSIONS)}")
    return names
