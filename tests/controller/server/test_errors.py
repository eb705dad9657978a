"""Every public error has its status."""

import inspect

import pytest
from efficientquant_controller import errors
from efficientquant_controller.fleet.builds import BuildError
from efficientquant_controller.server.errors import STATUS_BY_ERROR, status_of
from grpc import StatusCode

PUBLIC = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.FleetError)]


@pytest.mark.parametrize("error", PUBLIC)
def test_every_public_error_has_a_row(error: type[errors.FleetError]) -> None:
    """A new error class needs a decision on what the other side is told."""
    assert error in STATUS_BY_ERROR


def test_an_error_without_a_row_takes_its_nearest_parent() -> None:
    """What is no user's error is internal."""
    assert status_of(BuildError("x")) is StatusCode.INTERNAL
    assert status_of(errors.StoreVersionError("x")) is StatusCode.FAILED_PRECONDITION
