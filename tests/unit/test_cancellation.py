"""A task that loses a cancellation still ends."""

from __future__ import annotations

import asyncio

from workers.cancellation import end


async def _swallow_one() -> None:
    """As `asyncio.wait_for` before Python 3.12, when the cancellation meets its result."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(60)


def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    async def scenario() -> asyncio.Task[None]:
        task = asyncio.create_task(_swallow_one())
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await end(task)
        return task

    assert asyncio.run(scenario()).cancelled()


def test_ending_leaves_finished_tasks_and_their_errors_alone() -> None:
    async def fail() -> None:
        raise ValueError

    async def scenario() -> asyncio.Task[None]:
        task = asyncio.create_task(fail())
        await asyncio.wait({task})
        await end(task)
        return task

    assert isinstance(asyncio.run(scenario()).exception(), ValueError)


def test_nothing_to_end_returns_at_once() -> None:
    asyncio.run(end())
