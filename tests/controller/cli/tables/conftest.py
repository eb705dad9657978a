"""Rows of a campaign, and the screen that they give."""

import pytest
from campaign_rows import campaign_rows
from efficientquant_controller.cli.tables.screen import screen_lines
from efficientquant_controller.cli.tables.view import choose_view


@pytest.fixture
def rows():
    """Return 3 devices × 4 recipes × 10 models."""
    return campaign_rows()


@pytest.fixture
def screen():
    """Return a function that makes the lines of a screen."""

    def lines(rows, width=80, metric="latency", down="", across="", sort="campaign", *, gains=False):
        view = choose_view(metric, down, across, sort, gains=gains)
        return [line.plain for line in screen_lines(rows, width, view)]

    return lines
