"""Results that no database can hold, and the limits of what it holds."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from efficientquant_controller.errors import UnstorableError
from efficientquant_controller.model import Agreement, DeviceSnapshot, Engine, RunResult, RunState, Series, StageTiming
from efficientquant_controller.store.sql import SqlStore
from states import assign, commit, rows_of, under_lease

ENGINE = Engine("cd" * 32, 2**63 - 1, True, 2**63 - 1, (), {}, {}, "[]")
BOARD = DeviceSnapshot(board="bench", memory_total_bytes=2**63 - 1, swap_total_bytes=2**63 - 1, cpu_count=2**31 - 1)
DEEP = "its layers are nested deeper than 32 levels"
TOO_LARGE = f"{2**63}, and the database holds less than {2**63}"


def read(**changes: Any) -> tuple[StageTiming, ...]:
    return (replace(StageTiming("read", 0.5, 2**63 - 1), **changes),)


UNSTORABLE: tuple[tuple[Mapping[str, Any], str], ...] = (
    ({"stages": read(duration_s=math.nan)}, "the duration of the stage 'read' is nan"),
    ({"started_unix_s": math.inf}, "the start is inf"),
    ({"started_monotonic_s": -math.inf}, "the monotonic start is -inf"),
    ({"duration_s": math.nan}, "the duration is nan"),
    ({"stages": read(size_bytes=2**63)}, f"the size of the stage 'read' is {TOO_LARGE}"),
    ({"engine": replace(ENGINE, size_bytes=2**63)}, f"the engine's size is {TOO_LARGE}"),
    ({"engine": replace(ENGINE, workspace_bytes=2**63)}, f"the engine's workspace is {TOO_LARGE}"),
    ({"device": replace(BOARD, memory_total_bytes=2**63)}, f"the device's memory is {TOO_LARGE}"),
    ({"device": replace(BOARD, swap_total_bytes=2**63)}, f"the device's swap is {TOO_LARGE}"),
    (
        {"device": replace(BOARD, cpu_count=2**31)},
        f"the device's number of CPUs is {2**31}, and the database holds less than {2**31}",
    ),
    ({"protocol_version": 2**31}, f"the protocol's version is {2**31}, and the database holds less than {2**31}"),
    ({"engine": replace(ENGINE, layers_json="[" * 33 + "]" * 33)}, DEEP),
    ({"engine": replace(ENGINE, layers_json="[" * 100_000 + "]" * 100_000)}, DEEP),
    ({"engine": replace(ENGINE, layers_json='{"a":' * 33 + "1" + "}" * 33)}, DEEP),
    ({"series": (Series("power_w", (0.0, 1.0), (5.0,)),)}, "the series 'power_w' has 2 times and 1 values"),
    ({"latency_s": (1e308, 1e308, 1e308)}, "intermediate overflow in fsum"),
    ({"stages": read(stage="re\0ad")}, "the name of a stage contains NUL"),
    ({"backend": "ort\0"}, "the backend contains NUL"),
    ({"providers": ("CPU", "\0")}, "a provider contains NUL"),
    ({"failure_type": "time\0out"}, "the failure's type contains NUL"),
    ({"agent_version": "\0"}, "the agent's version contains NUL"),
    ({"engine": replace(ENGINE, sha256="\0")}, "the engine's hash contains NUL"),
    ({"device": replace(BOARD, jetpack="\0")}, "the device's jetpack contains NUL"),
)


def test_what_no_database_can_hold(planned: SqlStore, make_result: Callable) -> None:
    """Both databases refuse a result in the same sentence, and store a good result of the batch."""
    assign(planned, "r0")
    planned.release_run("r0", "lost", 2.0)  # a refusal of its current lease would change its state
    before = rows_of(planned)
    results = [make_result(**changes) for changes, _ in UNSTORABLE]

    refusals = planned.commit_reports([under_lease(result) for result in results], 5.0)

    assert {type(refusal) for refusal in refusals} == {UnstorableError}
    start = "the result of run r0 cannot be stored: "
    assert [str(refusal) for refusal in refusals] == [start + sentence for _, sentence in UNSTORABLE]
    assert rows_of(planned) == before
    answers = planned.commit_reports([under_lease(result) for result in (results[0], make_result(), results[1])], 6.0)
    assert [getattr(answer, "new", None) for answer in answers] == [None, True, False]


def test_an_unstorable_result_of_a_run_with_a_result(planned: SqlStore, make_result: Callable) -> None:
    """An unstorable result of a run that has a result, or of a passing failure, is answered as any other."""
    assign(planned, "r0")
    broken = make_result(failure_type="agent_error", duration_s=math.nan)
    assert not commit(planned, broken).new
    assert planned.run("r0").state is RunState.PLANNED
    assign(planned, "r0", "lease-2")
    assert commit(planned, make_result(), "lease-2").new
    assert not commit(planned, broken, "lease-2").new


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": read(), "engine": ENGINE, "device": BOARD, "protocol_version": 2**31 - 1, "measured": {}},
        {"engine": replace(ENGINE, layers_json=json.dumps(json.loads("[" * 32 + "]" * 32)))},
        {"failure_type": "wrong_outputs", "agreement": Agreement(math.nan, math.inf, 0, 2**31 - 1)},
        {"warmup_latency_s": (math.nan,), "device_latency_s": (math.inf,)},
    ],
    ids=["integers", "layers", "outputs", "samples"],
)
def test_the_largest_values_read_back(planned: SqlStore, make_result: Callable, changes: dict[str, Any]) -> None:
    """Values at the ends of their ranges read back equal from both databases."""
    result: RunResult = replace(make_result(), **changes)
    assign(planned, "r0")
    assert commit(planned, result).new
    assert repr(planned.raw_result("r0")) == repr(result)  # NaN equals nothing


def test_layers_are_json_on_both_databases(planned: SqlStore, make_result: Callable) -> None:
    """Numbers that JSON cannot hold are null in the layers."""
    assign(planned, "r0")
    commit(planned, make_result(engine=replace(ENGINE, layers_json='[NaN, 1e999, -Infinity, 0.5, "\\u0000"]')))
    assert json.loads(planned.raw_result("r0").engine.layers_json) == [None, None, None, 0.5, "\0"]
