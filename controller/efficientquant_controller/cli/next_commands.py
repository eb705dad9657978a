"""The commands that a user can type next.

They are quoted for a shell, repeat what the user passed, and name the same controller.
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from efficientquant_controller.cli.options import DEFAULT_CONTROLLER
from efficientquant_controller.config import DEFAULT_REPEATS
from efficientquant_controller.model import TWIN_RECIPE

if TYPE_CHECKING:
    from efficientquant_controller.cli.records import BenchRequest, CampaignListing

# The options of bench by the field of the request that each sets.
_OPTIONS = {
    "repeats": "--repeats",
    "paper": "--paper",
    "backend": "--backend",
    "lock_clocks": "--lock-clocks",
    "power_mode": "--power-mode",
    "cuda_graph": "--cuda-graph",
    "sync_mode": "--sync",
    "memory_kind": "--buffers",
    "profile_layers": "--layers",
    "idle_s": "--idle",
    "max_start_temperature_c": "--start-below",
    "seed": "--seed",
    "intra_op_threads": "--threads",
    "label": "--label",
}
FIRST_BENCH = ("bench", "mobilevit_xxs", "--recipes", "fp32,efficientquant")
CHECKPOINT_LABEL = "checkpoint:"


def command_line(words: Sequence[str], controller: str) -> str:
    """Return `efficientquant WORDS`, quoted for a shell.

    --controller is added when the command would otherwise use another controller.
    """
    default = os.environ.get("EFFICIENTQUANT_CONTROLLER", DEFAULT_CONTROLLER)
    option = [] if controller == default else ["--controller", controller]
    return shlex.join(["efficientquant", *words, *option])


def bench_words(request: "BenchRequest", weights: str | Path, data: Path | None, tier: str) -> list[str]:
    """Return the words that repeat a campaign in another tier."""
    words = ["bench", *request.models, "--recipes", ",".join(request.recipes), "--tier", tier]
    if TWIN_RECIPE not in request.recipes:
        words.append("--no-twin")
    if request.devices:
        words += ["--devices", ",".join(request.devices)]
    if str(weights) != "pretrained":
        words += ["--weights", str(weights)]
    if data is not None:
        words += ["--data", str(data)]
    for field in fields(request):
        value = getattr(request, field.name)
        if field.name in _OPTIONS and value != field.default:
            words += [_OPTIONS[field.name]] if value is True else [_OPTIONS[field.name], _plain(value)]
    return words


def campaign_words(campaign: "CampaignListing", tier: str) -> list[str] | None:
    """Return the words that repeat a campaign from the controller's listing.

    Returns None when the campaign's checkpoint file is not in the working directory.
    """
    words = ["bench", *campaign.models, "--recipes", ",".join(campaign.recipes), "--tier", tier]
    if TWIN_RECIPE not in campaign.recipes:
        words.append("--no-twin")
    words += ["--devices", ",".join(campaign.devices)]
    if campaign.repeats != DEFAULT_REPEATS:
        words += ["--repeats", str(campaign.repeats)]
    weights = campaign.weights.removeprefix(CHECKPOINT_LABEL)
    if weights != campaign.weights and not Path(weights).is_file():
        return None
    return words if weights == "pretrained" else [*words, "--weights", weights]


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
