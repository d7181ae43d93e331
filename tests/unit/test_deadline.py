"""A deadline that moves: it fires once, never early, and needs one timer however often it is set."""

from __future__ import annotations

import asyncio

from gateway.concurrency.deadline import Deadline
from tests.support.waiting import wait_until


class CountingLoop(asyncio.SelectorEventLoop):
    """A loop that counts timers."""

    timers = 0

    def call_at(self, *args: object, **kwargs: object) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(*args, **kwargs)  # type: ignore[arg-type]  # whatever asyncio's takes


def run(work: object) -> None:
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(work)  # type: ignore[arg-type]  # a coroutine


def test_it_rings_when_its_time_is_over_and_not_before() -> None:
    async def work() -> None:
        loop, rang = asyncio.get_running_loop(), list[float]()
        deadline = Deadline(loop, lambda: rang.append(loop.time()))
        began = loop.time()
        deadline.set(0.01)
        deadline.set(0.06)
        await wait_until(lambda: bool(rang), what="it rings")
        assert rang[0] - began >= 0.06
        await asyncio.sleep(0.03)  # in which it must not ring again
        assert len(rang) == 1

    run(work())


def test_a_nearer_time_is_not_missed() -> None:
    async def work() -> None:
        rang = asyncio.Event()
        deadline = Deadline(asyncio.get_running_loop(), rang.set)
        deadline.set(60)
        deadline.set(0.01)
        async with asyncio.timeout(5):
            await rang.wait()

    run(work())


def test_closed_it_does_not_ring() -> None:
    async def work() -> None:
        rang: list[int] = []
        deadline = Deadline(asyncio.get_running_loop(), lambda: rang.append(1))
        for _ in range(2):
            deadline.set(0.005)
            deadline.close()
            deadline.close()
            await asyncio.sleep(0.02)  # in which it must not ring
        assert rang == []

    run(work())


def test_to_move_it_on_costs_no_timer() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        deadline = Deadline(loop, lambda: None)
        before = loop.timers
        for _ in range(1000):
            deadline.set(30)
        assert loop.timers - before <= 1
        deadline.close()

    run(work())
