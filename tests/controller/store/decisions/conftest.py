"""A store with a running campaign."""

from dataclasses import replace

import pytest
from efficientquant_controller.model import Build, BuildState, Campaign, CampaignState, Job, JobState, Run
from efficientquant_controller.store.sql import SqlStore

MODEL = "mobilevit_xxs"


@pytest.fixture
def running(planned: SqlStore, campaign: Campaign) -> SqlStore:
    """Add the running campaign c2 with two queued jobs.

    Job a has runs a0 and a1, and job b has run b0.
    """
    builds = [Build("c2", MODEL, recipe, BuildState.READY) for recipe in ("fp32", "int8")]
    jobs = [
        Job(name, "c2", "d1", MODEL, recipe, JobState.QUEUED)
        for name, recipe in zip("ab", ("fp32", "int8"), strict=True)
    ]
    runs = [Run("a0", "a", 0, 0), Run("b0", "b", 0, 1), Run("a1", "a", 1, 2)]
    planned.create_campaign(
        replace(campaign, campaign_id="c2", state=CampaignState.RUNNING, created_unix_s=11.0), builds, jobs, runs
    )
    return planned
