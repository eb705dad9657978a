"""Tests of the gRPC status of each public error."""

import inspect

import pytest
from efficientquant_controller import errors
from efficientquant_controller.fleet.builds import BuildError
from efficientquant_controller.server.errors import LONGEST_TEXT, STATUS_BY_ERROR, shorten, status_of
from grpc import StatusCode

PUBLIC = [error for _, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, errors.FleetError)]


@pytest.mark.parametrize("error", PUBLIC)
def test_every_public_error_has_a_row(error: type[errors.FleetError]) -> None:
    """Every public error class has a row in the table of statuses."""
    assert error in STATUS_BY_ERROR


def test_an_error_without_a_row_takes_its_nearest_parent() -> None:
    """An error without a row takes the status of its nearest parent."""
    assert status_of(BuildError("x")) is StatusCode.INTERNAL
    assert status_of(errors.StoreVersionError("x")) is StatusCode.FAILED_PRECONDITION


def test_a_text_that_repeats_a_long_argument_is_shortened() -> None:
    """A status holds the beginning of a text that gRPC would refuse."""
    assert shorten("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT
    assert shorten(f"there is no campaign {'x' * (1 << 20)}") == f"there is no campaign {'x' * (LONGEST_TEXT - 21)}…"
