"""Background work: whatever a round does, the next one follows, and dead work is known by its name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import pytest
import structlog

from gateway.concurrency.periodic import Periodic, dead
from tests.support.waiting import wait_until

EVERY_S: Final = 0.001


class AwayError(Exception):
    """A dependency of the work is unavailable."""


@contextlib.asynccontextmanager
async def running(work: Periodic) -> AsyncIterator[Periodic]:
    task = asyncio.create_task(work.run())
    try:
        yield work
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def raising(error: Exception) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        raise error

    return work


async def test_it_is_done_again_and_again_the_first_time_at_once() -> None:
    rounds: list[int] = []

    async def work() -> None:
        rounds.append(len(rounds))

    async with running(Periodic("work", EVERY_S, work)) as periodic:
        await wait_until(lambda: len(rounds) > 3, what="four rounds")
        assert periodic.rounds["done"] >= 3
    async with running(Periodic("work", 3600.0, work)):
        before = len(rounds)
        await wait_until(lambda: len(rounds) == before + 1, what="the first round")


@pytest.mark.parametrize("error", [LookupError("a bug"), AttributeError("x"), TimeoutError("late"), OSError(5, "disk")])
async def test_a_round_that_fails_is_logged_counted_and_followed_by_another(error: Exception) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running(Periodic("sweep-floors", EVERY_S, raising(error))) as periodic:
            await wait_until(lambda: periodic.rounds["failed"] > 2, what="three failures")
    failed = [entry for entry in logs if entry["event"] == "background_work_failed"]
    assert [entry["in_a_row"] for entry in failed[:3]] == [1, 2, 3]
    assert failed[0]["work"] == "sweep-floors"
    assert failed[0]["exc_info"] is error
    assert periodic.rounds["done"] == 0


async def test_the_pause_grows_with_failures_up_to_a_bound_and_is_short_again_after_a_good_round() -> None:
    pauses: list[float] = []
    broken = True

    class Watched(Periodic):
        async def _sleep(self, delay_s: float) -> None:
            pauses.append(delay_s)
            await asyncio.sleep(0)

    async def work() -> None:
        if broken:
            raise LookupError("a bug")

    async with running(Watched("work", 1.0, work)):
        await wait_until(lambda: len(pauses) > 8, what="nine pauses")
        assert pauses[:9] == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0, 30.0]
        broken = False
        await wait_until(lambda: pauses[-1] == 1.0, what="the usual pause")
    pauses.clear()
    broken = True
    async with running(Watched("seldom", 600.0, work)):
        await wait_until(lambda: len(pauses) > 2, what="three pauses")
    assert set(pauses) == {600.0}, "work that is due seldom is not due later for it"


async def test_while_what_it_needs_is_away_it_goes_on_at_its_pace_and_is_not_dead() -> None:
    loop = asyncio.get_running_loop()
    with structlog.testing.capture_logs() as logs:
        periodic = Periodic("work", EVERY_S, raising(AwayError()), outages=(AwayError,), dead_after_s=0.01)
        async with running(periodic):
            await wait_until(lambda: periodic.rounds["away"] > 20, what="many rounds")
            assert not periodic.is_dead(loop.time())
    assert logs == []
    assert periodic.rounds["failed"] == 0


async def test_work_that_fails_for_too_long_is_reported_dead_and_recovers_after_one_success() -> None:
    loop, broken = asyncio.get_running_loop(), True

    async def work() -> None:
        if broken:
            raise LookupError("a bug")

    with structlog.testing.capture_logs() as logs:
        async with running(Periodic("sweep-floors", EVERY_S, work, dead_after_s=0.05)) as periodic:
            await wait_until(lambda: dead((periodic,), loop.time()) == ["sweep-floors"], what="it is dead")
            assert not periodic.is_dead(loop.time() - 1000)
            broken = False
            periodic.wake()
            await wait_until(lambda: dead((periodic,), loop.time()) == [], what="it lives")
    assert "background_work_recovered" in [entry["event"] for entry in logs]


async def test_a_round_that_hangs_is_dead_is_ended_and_is_followed_by_another() -> None:
    loop, hangs = asyncio.get_running_loop(), asyncio.Event()
    begun: list[int] = []

    async def work() -> None:
        begun.append(len(begun))
        await hangs.wait()

    async with running(Periodic("work", EVERY_S, work, dead_after_s=0.05)) as periodic:
        await wait_until(lambda: periodic.is_dead(loop.time()), what="it is dead")
        await wait_until(lambda: len(begun) > 1, what="it was begun again")
        assert periodic.rounds["failed"] >= 1
        hangs.set()
        await wait_until(lambda: periodic.rounds["done"] > 0, what="a round is done")
        assert not periodic.is_dead(loop.time())


async def test_woken_it_does_not_wait_for_its_time() -> None:
    rounds: list[int] = []

    async def work() -> None:
        rounds.append(len(rounds))

    async with running(Periodic("work", 3600.0, work)) as periodic:
        for number in range(1, 5):
            await wait_until(lambda number=number: len(rounds) == number, what="a round")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            periodic.wake()


async def test_woken_during_a_round_it_begins_another_behind_it() -> None:
    rounds, gate = list[int](), asyncio.Event()

    async def work() -> None:
        rounds.append(len(rounds))
        await gate.wait()

    async with running(Periodic("work", 3600.0, work)) as periodic:
        await wait_until(lambda: len(rounds) == 1, what="the first round")
        periodic.wake()
        gate.set()
        await wait_until(lambda: len(rounds) == 2, what="the second round")


async def test_finished_work_ends() -> None:
    async def work() -> None:
        periodic.finish()

    periodic = Periodic("work", 3600.0, work)
    async with asyncio.timeout(5):
        await periodic.run()
    assert periodic.rounds["done"] == 1


async def test_cancelled_it_ends_and_the_round_with_it() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("round")

    periodic = Periodic("work", 1.0, work)
    async with running(periodic):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert ended == ["round"]
    assert not periodic.rounds


async def test_a_cancellation_that_its_work_turns_into_an_error_ends_it_all_the_same() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("a library's own word for it") from None

    task = asyncio.create_task(Periodic("converts", 0.001, work).run())
    await begun.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert task.cancelled()
