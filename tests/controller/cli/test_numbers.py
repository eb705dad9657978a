"""The bounds of numeric options, the same in every verb."""

import pytest
import typer
from efficientquant.recipe import get_recipe, list_recipes
from efficientquant_controller.cli.app import app

NUMBERS = {
    "--repeats": "1 to 100",
    "--seed": "0 to 4294967295",
    "--threads": "0 to 256",
    "--idle": "0 to 600 seconds",
    "--start-below": "0 to 125 degrees Celsius",
    "--images": "1 to 4096",
    "--calibration-images": "1 to 4096",
    "--limit": "1 to 2147483647",
    "--input-size": "8 to 2048 pixels",
    "--lease": "0.1 to 86400 seconds",
    "--heartbeat-interval": "0.05 to 3600 seconds",
}
WORDS = {"bench": ["m"], "quantize": ["m"], "audit": ["m"], "plot": ["weights", "m", "--out", "x"]}
WORDS |= {"evaluate": ["m", "--data", "x"], "table1": ["--data", "x"]}
COMMANDS = typer.main.get_command(app).commands
CASES = [
    (verb, option)
    for verb, parsed in sorted(COMMANDS.items())
    for parameter in parsed.params
    for option in parameter.opts
    if option in NUMBERS
]


def test_every_quantity_is_tried():
    """Every option above belongs to a verb, and --seed to the four that draw at random."""
    assert {option for _, option in CASES} == set(NUMBERS)
    assert [verb for verb, option in CASES if option == "--seed"] == ["bench", "evaluate", "quantize", "table1"]


@pytest.mark.parametrize(("verb", "option"), CASES)
@pytest.mark.parametrize("text", ["99999999999999999999", "-1", "nan", "inf", "many", ""])
def test_a_number_out_of_bounds_is_refused_at_once(command, verb, option, text):
    """Every verb refuses it in the same sentence, with the option, the value and the bounds."""
    outcome = command(verb, *WORDS.get(verb, []), option, text)

    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {option} {text}: give a ")
    assert outcome.err.endswith(f"number from {NUMBERS[option]}\n")


@pytest.mark.parametrize(("verb", "option"), CASES)
def test_help_shows_the_bounds(verb, option):
    """The help of a numeric option ends with its bounds."""
    parameter = next(candidate for candidate in COMMANDS[verb].params if option in candidate.opts)

    assert parameter.help.endswith(f"From {NUMBERS[option]}.")


@pytest.mark.parametrize(
    ("verb", "option"), [("bench", "--data"), ("quantize", "--images"), ("evaluate", "--calibration-images")]
)
def test_help_has_the_recipes_numbers_of_images(verb, option):
    """The help names the range of the recipes' default numbers."""
    counts = [get_recipe(name).calibration_images for name in list_recipes()]
    parameter = next(candidate for candidate in COMMANDS[verb].params if option in candidate.opts)

    for count in (min(counts), max(counts)):
        assert f" {count} " in parameter.help.replace(",", " ")
