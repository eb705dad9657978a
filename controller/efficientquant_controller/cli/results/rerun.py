"""`efficientquant compare --rerun`: the campaign that measures both jobs of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from efficientquant_controller.analysis.guard import DEVICE, MODEL, RECIPE, subjects_of
from efficientquant_controller.cli import output
from efficientquant_controller.cli.next_commands import command_line
from efficientquant_controller.config import DEFAULT_REPEATS
from efficientquant_controller.errors import UserError

if TYPE_CHECKING:
    from efficientquant_controller.analysis.metrics import Side
    from efficientquant_controller.cli.connection import Connection
    from efficientquant_controller.cli.records import CampaignListing, Submission

# What a campaign may hold several of, and what need not agree to measure the same.
_OF_ONE_CAMPAIGN = frozenset({MODEL, RECIPE, DEVICE})
_FREE = frozenset({"models", "recipes", "devices", "repeats", "seed", "backend", "paper", "label"})


def rerun(
    connection: "Connection", first: "Side", second: "Side", options: Sequence[str] = (), *, as_json: bool
) -> None:
    """Submit one campaign with both jobs and print how to go on.

    `options` are those of the comparison to come.

    Raises UserError when one campaign cannot hold both, or the controller refuses it.
    """
    connection.require_same_protocol()
    submission = combined(first, second, {campaign.campaign_id: campaign for campaign in connection.campaigns()})
    campaign = connection.submit(submission.request, submission.weights, submission.calibration)
    names = [f"{campaign.campaign_id}/{side.name.partition('/')[2]}" for side in (first, second)]
    if as_json:
        output.print_json({"campaign": asdict(campaign), "first": names[0], "second": names[1]})
        return
    output.print_line(campaign.campaign_id)
    output.print_message(f"watch it: {command_line(['watch', campaign.campaign_id], connection.address)}")
    output.print_message(f"then compare: {command_line(['compare', *names, *options], connection.address)}")


def combined(first: "Side", second: "Side", campaigns: Mapping[str, "CampaignListing"]) -> "Submission":
    """Return the request for one campaign with both jobs.

    Raises UserError when one campaign cannot hold both.
    """
    rows = [_measured(side) for side in (first, second)]
    if rows[0]["campaign_id"] == rows[1]["campaign_id"]:
        raise UserError(f"both jobs were measured in campaign {rows[0]['campaign_id']}; compare them without --rerun")
    subjects = subjects_of(first, second)
    if not subjects:
        raise UserError(
            f"both jobs are {rows[0]['model']} with {rows[0]['recipe']} on {rows[0]['device']}, which one campaign "
            "measures once; bench it again, for at least five other campaigns to compare with"
        )
    if len(subjects) > 1 or not _OF_ONE_CAMPAIGN.issuperset(subjects):
        raise UserError(
            f"the jobs differ in {' and '.join(subjects)}, and --rerun needs jobs that differ in a recipe, a model or "
            "a device; name two that do"
        )
    if DEVICE in subjects and rows[0]["device"] == rows[1]["device"]:
        raise UserError(
            f"the jobs ran on two devices with the name {rows[0]['device']}, and a campaign finds a device by its "
            "name; bench both jobs again"
        )
    theirs, own = (_submission(str(row["campaign_id"]), campaigns) for row in rows)
    if differences := _differences(theirs, own):
        raise UserError(
            f"the campaigns of the two jobs differ in {', '.join(differences)}; bench both in one campaign with the "
            "settings that you want"
        )
    values = {name: tuple(dict.fromkeys(str(row[name]) for row in rows)) for name in ("model", "recipe", "device")}
    request = replace(
        theirs.request,
        models=values["model"],
        recipes=values["recipe"],
        devices=values["device"],
        repeats=max(theirs.request.repeats, own.request.repeats, DEFAULT_REPEATS),
        backend=str(rows[0]["backend"]),
        paper=False,
        label="",
    )
    return replace(theirs, request=request)


def _measured(side: "Side") -> Mapping[str, Any]:
    if not side.repeats:
        raise UserError(f"no repeat of {side.name} has succeeded; fix what failed and bench it again")
    return side.repeats[0]


def _submission(campaign_id: str, campaigns: Mapping[str, "CampaignListing"]) -> "Submission":
    listing = campaigns.get(campaign_id)
    if listing is None or listing.submission is None:
        raise UserError(
            f"the controller does not send the settings of campaign {campaign_id}; upgrade it, or bench both jobs in "
            "one campaign"
        )
    return listing.submission


def _differences(theirs: "Submission", own: "Submission") -> list[str]:
    """Return each setting that two campaigns differ in, with both values."""
    first, second = _settings(theirs), _settings(own)
    return [f"{name} ({first[name]} and {second[name]})" for name in first if first[name] != second[name]]


def _settings(submission: "Submission") -> dict[str, Any]:
    names = [field.name for field in fields(submission.request) if field.name not in _FREE]
    weights, calibration = submission.weights, submission.calibration
    return {
        **{name.replace("_", " "): getattr(submission.request, name) for name in names},
        "weights": _file(weights.label, weights.sha256),
        "calibration images": _file(calibration.filename, calibration.sha256) if calibration else "synthetic",
    }


def _file(name: str, sha256: str) -> str:
    return f"{name} {sha256[:12]}".strip()
