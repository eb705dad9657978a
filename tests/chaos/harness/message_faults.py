"""Faults of single messages, performed when a report is due."""

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from efficientquant_protos.v1 import fleet_pb2 as pb
from fake_agents import FINAL, FakeAgent, was_answered
from proxy import flip_a_bit
from reports import POISONS, StoredReport, failed_result, of_bytes, poisoned, stored
from waiting import let_pass, until

LATEST_CANCEL_S = 0.025
_SERVICE = "/efficientquant.v1.AgentGateway/"
_GARBAGE_BYTES = 200


class MessageFaults:
    """The faults, with what they need to know of the fleet.

    A lease lasts `lease_s`. `planned` has the run ids of each device, last one first.
    """

    def __init__(self, lease_s: float, planned: Mapping[str, list[str]]) -> None:
        self._lease_s = lease_s
        self._planned = planned
        self.kinds: Mapping[str, Callable[[FakeAgent, StoredReport], Awaitable[None]]] = {
            "duplicate at once": self._duplicate_at_once,
            "duplicate later": self._duplicate_later,
            "reorder": self._reorder,
            "late after silence": self._late_after_silence,
            "late after another lease": self._late_after_another_lease,
            "cancel the call": self._cancel_the_call,
            "garbage result": self._garbage_result,
            "changed bytes": self._changed_bytes,
            "undecodable message": self._undecodable_message,
            "undecodable session": self._undecodable_session,
            "undecodable method": self._undecodable_method,
            "poison first": self._poison_first,
            "poison only": self._poison_only,
            "never leased": self._never_leased,
            "unknown run": self._unknown_run,
            "wrong lease": self._wrong_lease,
            "no lease": self._no_lease,
            "agent error": self._agent_error,
            "restart": self._restart,
            "session broken off": self._break_off,
            "no heartbeats": self._no_heartbeats,
            "full disk": self._full_disk,
        }

    async def perform(self, agent: FakeAgent, report: StoredReport, kind: str) -> None:
        """Do what a fault does when its report is due."""
        agent.record.counts[f"fault: {kind}"] += 1
        await self.kinds[kind](agent, report)

    # copies

    async def _duplicate_at_once(self, agent: FakeAgent, report: StoredReport) -> None:
        await asyncio.gather(*(self._send_copy(agent, report) for _ in range(3)))

    async def _duplicate_later(self, agent: FakeAgent, report: StoredReport) -> None:
        del report
        for earlier in list(agent.delivered)[-1:]:
            await self._send_copy(agent, earlier)

    async def _reorder(self, agent: FakeAgent, report: StoredReport) -> None:
        for earlier in [report, *reversed(agent.delivered)]:
            await self._send_copy(agent, earlier)

    async def _send_copy(self, agent: FakeAgent, report: StoredReport) -> None:
        """Send a report whose original is in the outbox or was taken."""
        agent.record.sent(report)
        try:
            answer = await agent.gateway.ReportRun(report.request, timeout=agent.settings.report_timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() in FINAL and report in agent.delivered:
                agent.record.problems.append(f"a copy of run {report.run_id} was refused: {error.details()}")
        else:
            agent.take_answer(report, answer)

    # late reports

    async def _late_after_silence(self, agent: FakeAgent, report: StoredReport) -> None:
        del report
        agent.end_session()
        agent.offline_until_s = time.monotonic() + 1.3 * self._lease_s
        await let_pass(1.2 * self._lease_s)

    async def _late_after_another_lease(self, agent: FakeAgent, report: StoredReport) -> None:
        """Keep a report back until its run was assigned again."""
        agent.forget(report)
        await until(lambda: report.run_id in agent.assignments, 2 * self._lease_s)
        await self._send_copy(agent, report)

    async def _cancel_the_call(self, agent: FakeAgent, report: StoredReport) -> None:
        agent.record.sent(report)
        call = agent.gateway.ReportRun(report.request, timeout=agent.settings.report_timeout_s)
        await let_pass(agent.draw.uniform(0, LATEST_CANCEL_S))
        call.cancel()
        if await call.code() is grpc.StatusCode.OK:
            agent.take_answer(report, await call)
        else:
            agent.record.counts["calls cancelled before an answer"] += 1

    # bytes that are no result

    async def _garbage_result(self, agent: FakeAgent, report: StoredReport) -> None:
        await self._refused(agent, of_bytes(report.run_id, agent.draw.randbytes(_GARBAGE_BYTES)))

    async def _changed_bytes(self, agent: FakeAgent, report: StoredReport) -> None:
        changed = flip_a_bit(report.payload, range(len(report.payload)), agent.draw)
        await self._refused(agent, report._replace(payload=changed))

    async def _undecodable_message(self, agent: FakeAgent, report: StoredReport) -> None:
        del report
        call = agent.channel.unary_unary(f"{_SERVICE}ReportRun")
        await self._fails(agent, call(b"\xff" * _GARBAGE_BYTES, timeout=5.0))

    async def _undecodable_session(self, agent: FakeAgent, report: StoredReport) -> None:
        del report
        call = agent.channel.stream_stream(f"{_SERVICE}Connect")(iter([b"\xff" * _GARBAGE_BYTES]), timeout=5.0)
        code = await call.code()
        if code is grpc.StatusCode.OK:
            agent.record.problems.append("a session that began with garbage was accepted")

    async def _undecodable_method(self, agent: FakeAgent, report: StoredReport) -> None:
        """Call a method whose name is not UTF-8."""
        del report
        await self._fails(
            agent, agent.channel.unary_unary(b"/efficientquant.v1\xaeAgentGateway/Ping")(b"", timeout=5.0)
        )

    async def _poison_first(self, agent: FakeAgent, report: StoredReport) -> None:
        if not report.failure_type:
            poison = poisoned(report, agent.draw.choice(list(POISONS)))
            await self._refused(agent, poison, may_be_duplicate=True)

    async def _poison_only(self, agent: FakeAgent, report: StoredReport) -> None:
        await self._poison_first(agent, report)
        agent.forget(report)

    # results of runs that are not this agent's

    async def _never_leased(self, agent: FakeAgent, report: StoredReport) -> None:
        run_id = next((name for name in self._planned.get(agent.device_id, []) if name not in agent.seen), None)
        if run_id is not None:
            await self._refused(agent, _renamed(report, run_id=run_id))

    async def _unknown_run(self, agent: FakeAgent, report: StoredReport) -> None:
        await self._refused(agent, _renamed(report, run_id=uuid.uuid4().hex))

    async def _wrong_lease(self, agent: FakeAgent, report: StoredReport) -> None:
        await self._refused(agent, _renamed(report, lease_id=os.urandom(16).hex()))

    async def _no_lease(self, agent: FakeAgent, report: StoredReport) -> None:
        await self._refused(agent, _renamed(report, lease_id=""))

    # agents in trouble

    async def _agent_error(self, agent: FakeAgent, report: StoredReport) -> None:
        result = pb.RunResult.FromString(report.payload)
        assignment = pb.Assignment(
            run_id=result.run_id, attempt=result.attempt, lease_id=result.lease_id, backend=result.backend
        )
        failure = agent.draw.choice(["agent_error", "artifact_corrupt", "cancelled"])
        agent.outbox[report.run_id] = stored(failed_result(assignment, agent.device_id, agent.snapshot, failure))

    async def _restart(self, agent: FakeAgent, report: StoredReport) -> None:
        agent.forget(report)
        agent.restart()

    async def _break_off(self, agent: FakeAgent, report: StoredReport) -> None:
        del report
        agent.end_session()

    async def _no_heartbeats(self, agent: FakeAgent, report: StoredReport) -> None:
        del report
        agent.silent_until_s = time.monotonic() + agent.draw.uniform(0.3, 1.5) * self._lease_s

    async def _full_disk(self, agent: FakeAgent, report: StoredReport) -> None:
        del report
        agent.problem = "the disk of the state directory is full"
        await let_pass(agent.draw.uniform(0.2, 1.0))
        agent.problem = ""

    async def _refused(self, agent: FakeAgent, report: StoredReport, may_be_duplicate: bool = False) -> None:
        """Send a report that the controller must not take.

        It may be a duplicate of a report whose answer was lost.
        """
        call = agent.gateway.ReportRun(report.request, timeout=agent.settings.report_timeout_s)
        await self._fails(agent, call, may_be_duplicate)

    async def _fails(self, agent: FakeAgent, call: Awaitable[Any], may_be_duplicate: bool = False) -> None:
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            if was_answered(error):
                agent.record.counts[f"bad report refused: {error.code().name}"] += 1
        else:
            if answer is not None and not (may_be_duplicate and answer.duplicate):
                agent.record.problems.append(f"a bad report was accepted: {answer}".strip())


def _renamed(report: StoredReport, **changes: str) -> StoredReport:
    result = pb.RunResult.FromString(report.payload)
    for name, value in changes.items():
        setattr(result, name, value)
    return stored(result)
