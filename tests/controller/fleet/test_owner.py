"""Tests of the task that changes the fleet's state."""

import asyncio

import pytest
from efficientquant_controller.errors import UserError
from efficientquant_controller.fleet.owner import Owner


def test_a_cancelled_call_cancels_nothing_that_began() -> None:
    """A command goes on when its caller is cancelled, and the next one follows it."""
    done = []

    async def story() -> None:
        owner, begun, go_on = Owner(), asyncio.Event(), asyncio.Event()

        async def command() -> None:
            begun.set()
            await go_on.wait()
            done.append("first")

        async def second() -> None:
            done.append("second")

        caller = asyncio.create_task(owner.do(command))
        await begun.wait()
        caller.cancel()
        go_on.set()
        await owner.do(second)
        assert caller.cancelled()

    asyncio.run(story())
    assert done == ["first", "second"]


def test_commands_never_overlap() -> None:
    """Commands are carried out one after the other, in the order of the calls."""
    events = []

    async def story() -> None:
        owner = Owner()

        async def command(name: str) -> str:
            events.append(f"{name} begins")
            await asyncio.to_thread(str)  # the other command could begin here
            events.append(f"{name} ends")
            return name

        answers = await asyncio.gather(*(owner.do(lambda name=name: command(name)) for name in "ab"))
        assert answers == ["a", "b"]

    asyncio.run(story())
    assert events == ["a begins", "a ends", "b begins", "b ends"]


def test_an_error_belongs_to_its_caller(recwarn: pytest.WarningsRecorder) -> None:
    """A command that fails raises in its call only, and not in the log when the caller is gone."""

    async def story() -> None:
        owner = Owner()

        async def fails() -> None:
            raise UserError("no")

        async def works() -> int:
            return 7

        owner.begin(fails)
        with pytest.raises(UserError, match="no"):
            await owner.do(fails)
        assert await owner.do(works) == 7

    asyncio.run(story())
    assert not recwarn.list


@pytest.mark.parametrize("begins", [True, False])
def test_nobody_waits_for_an_owner_that_was_cancelled(begins: bool) -> None:
    """Every waiting call ends when the controller stops, and later commands are carried out."""

    async def story() -> None:
        owner, begun = Owner(), asyncio.Event()

        async def hangs() -> None:
            begun.set()
            await asyncio.Event().wait()

        async def works() -> int:
            return 7

        answers = [owner.begin(hangs), owner.begin(works)]
        if begins:
            await begun.wait()
        assert owner._task is not None
        owner._task.cancel()
        await asyncio.wait(answers)
        assert all(answer.cancelled() for answer in answers)
        assert await owner.do(works) == 7

    asyncio.run(asyncio.wait_for(story(), 10))
