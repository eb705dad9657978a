"""What a child that left no result failed of."""

import pytest
from efficientquant_agent.run.children import Ended, crash

FAILURES = {"oom": "runtime_oom", "other": "runtime_error"}


@pytest.mark.parametrize(
    ("last_line", "failure_type"),
    [
        ("OSError: [Errno 28] No space left on device", "agent_error"),
        ("ValueError: a shape", "runtime_error"),
    ],
)
def test_full_disk_is_no_fault_of_the_model(last_line, failure_type):
    """A child without disk space fails as agent_error."""
    error = crash(Ended(1, ["Traceback", last_line]), "nothing", FAILURES)

    assert (error.failure_type, last_line in str(error)) == (failure_type, True)
