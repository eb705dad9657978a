"""Tests of the ledger: its artifacts and its threads."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from efficientquant_controller.errors import StoreBusyError
from efficientquant_controller.fleet.ledger import Ledger, StoreHealth
from efficientquant_controller.model import Artifact, Build, BuildState, Job


def artifact(reference: str) -> Artifact:
    return Artifact("ab" * 32, 1, "m", "fp32", 1, "random", None, (), {}, {}, "onnxruntime", (), reference)


def test_each_request_keeps_its_reference_inputs() -> None:
    """Two requests that made the same file from different images keep their own reference inputs."""
    made = {"synthetic": artifact("11" * 32), "photographs": artifact("22" * 32)}
    store: Any = SimpleNamespace(find_artifact=made.get, artifact=lambda _: made["photographs"])
    ledger = Ledger(store, lambda *_: None, StoreHealth())
    job = Job("j", "c", "d", "m", "fp32", target="onnxruntime")

    async def reference_of(key: str) -> str:
        build = Build("c", "m", "fp32", BuildState.READY, "", "ab" * 32, "onnxruntime", key)
        tracked: Any = SimpleNamespace(builds={("m", "fp32", "onnxruntime"): build})
        return (await ledger.artifact(tracked, job)).reference_sha256

    assert asyncio.run(reference_of("synthetic")) == "11" * 32
    assert asyncio.run(reference_of("photographs")) == "22" * 32
    # A build of an earlier release has no key: the file's latest build answers.
    assert asyncio.run(reference_of("")) == "22" * 32


def test_a_thread_that_cannot_start_is_no_damage() -> None:
    """A store call without a thread is trouble that passes, so no campaign is set aside."""
    ledger = Ledger(SimpleNamespace(), lambda *_: None, StoreHealth())  # type: ignore[arg-type]
    ledger.close()
    with pytest.raises(StoreBusyError, match="can start no thread for its database"):
        asyncio.run(ledger.db(list))
