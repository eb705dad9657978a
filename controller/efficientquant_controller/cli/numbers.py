"""The numeric options.

Each quantity has one type, so that its bounds are the same in every verb.
"""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from efficientquant_controller import bounds


def number_option(option: str, allowed: bounds.Bounds, text: str, metavar: str = "N") -> Any:
    """Return a Typer option for the numbers in `allowed`.

    Any other value raises a UserError that names the option.
    """
    help_text = f"{text} From {allowed.span}."
    return typer.Option(option, parser=reader(option, allowed), metavar=metavar, help=help_text)


def reader(option: str, allowed: bounds.Bounds) -> Callable[[str | float], Any]:
    """Return a parser for the value of `option`.

    The parser raises UserError for anything but a number in `allowed`.
    """
    return lambda text: allowed.read(option, text)


Repeats = Annotated[int, number_option("--repeats", bounds.REPEATS, "Processes per model, recipe and device.")]
RepeatsOrDefault = Annotated[
    int | None,
    number_option("--repeats", bounds.REPEATS, "Processes per model, recipe and device; 3 unless --paper."),
]
Threads = Annotated[
    int, number_option("--threads", bounds.THREADS, "Threads within an operator; 0 leaves it to the runtime.")
]
Idle = Annotated[
    float | None, number_option("--idle", bounds.IDLE_S, "Rest before and after, for idle power.", "SECONDS")
]
StartBelow = Annotated[
    float | None,
    number_option(
        "--start-below", bounds.START_BELOW_C, "Wait until cooler than this; 60 by default, 0 never.", "CELSIUS"
    ),
]
CampaignSeed = Annotated[int, number_option("--seed", bounds.SEED, "Orders the runs, and draws random weights.")]
CalibrationSeed = Annotated[int, number_option("--seed", bounds.SEED, "Draws the calibration images.")]
EvaluationSeed = Annotated[int, number_option("--seed", bounds.SEED, "Draws calibration images, and random weights.")]
WeightsSeed = Annotated[int, number_option("--seed", bounds.SEED, "Draws random weights.")]
ImageCount = Annotated[
    int | None, number_option("--images", bounds.IMAGES, "How many images to run, of --data or synthetic ones.")
]
CalibrationImages = Annotated[
    int | None,
    number_option("--images", bounds.IMAGES, "How many images of --data to calibrate on; 32 to 256 by default."),
]
EvaluationCalibrationImages = Annotated[
    int | None,
    number_option(
        "--calibration-images", bounds.IMAGES, "How many of them, spread over the classes; 32 to 256 by default."
    ),
]
Limit = Annotated[
    int | None, number_option("--limit", bounds.IMAGE_LIMIT, "Only this many images, spread over the classes.")
]
InputSize = Annotated[
    int | None,
    number_option("--input-size", bounds.INPUT_SIZE, "Side of the model's square input, if not its own.", "PIXELS"),
]
MinEffect = Annotated[
    float, number_option("--min-effect", bounds.MIN_EFFECT_PERCENT, "The least difference that counts.", "PERCENT")
]
HeartbeatInterval = Annotated[
    float,
    number_option(
        "--heartbeat-interval", bounds.HEARTBEAT_INTERVAL_S, "How often a device says it is alive.", "SECONDS"
    ),
]
Lease = Annotated[
    float,
    number_option(
        "--lease",
        bounds.LEASE_S,
        "A device silent for this long is offline, and its run goes back to the queue.",
        "SECONDS",
    ),
]
