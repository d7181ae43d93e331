"""Background work that is repeated for as long as the process runs, under one supervision.

    work = Periodic("renew-holds", 100.0, renew)    calls `renew` once every 100 s, the first time at once
    asyncio.create_task(work.run())                 until the task is cancelled, or `work.finish()` was called
    work.wake()                                     the next round starts at once
    work.is_dead(now_s)                             whether no round was completed for `dead_after_s`

 a round                           | counted as | the next one starts after                             |
-----------------------------------|------------|-------------------------------------------------------|
 returns                           | done       | `every_s`                                             |
 raises one of `outages`           | away       | `every_s`: another part is unavailable and reports it |
 raises any other exception        | failed     | a pause that doubles from `every_s`, at most 30 s     |
 takes longer than `dead_after_s`  | failed     | the same; the round is cancelled                      |

A failed round is logged with its traceback, and so is the first successful one after it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

MAX_PAUSE_S: Final = 30.0
"""The longest pause after failures, for work that is due more often than that."""
DEAD_AFTER_S: Final = 30.0
"""How long work with a short period may complete no round before it counts as dead."""
DEAD_AFTER_PERIODS: Final = 3
_MAX_DOUBLINGS: Final = 10


class Periodic:
    """One kind of background work.

    Mutable: `rounds` by their result, the time since which no round was completed, and whether the work is finished.
    """

    def __init__(
        self,
        name: str,
        every_s: float,
        work: Callable[[], Awaitable[None]],
        *,
        outages: tuple[type[Exception], ...] = (),
        dead_after_s: float | None = None,
    ) -> None:
        self.name = name
        self.every_s = every_s
        self.dead_after_s = max(DEAD_AFTER_S, DEAD_AFTER_PERIODS * every_s) if dead_after_s is None else dead_after_s
        self.rounds: Counter[str] = Counter()
        self._work = work
        self._outages = outages
        self._failures = 0
        self._incomplete_since_s: float | None = None
        self._finished = False
        self._wake = asyncio.Event()
        self._log = structlog.get_logger("gateway.background")

    async def run(self) -> None:
        """Repeats the work until this task is cancelled or the work is finished."""
        task = asyncio.current_task()
        while not self._finished:
            self._wake.clear()
            await self._round()
            # Libraries may turn a cancellation into an error of their own, when it meets one of their timeouts.
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
            if not self._finished:
                await self._sleep(self._pause_s())

    def wake(self) -> None:
        """Starts the next round at once. If a round is running, the next one follows it immediately."""
        self._wake.set()

    def finish(self) -> None:
        """Ends the work: no round follows this one."""
        self._finished = True

    def is_dead(self, now_s: float) -> bool:
        """Whether the work has failed or hung for `dead_after_s`. `now_s` is the event loop's time."""
        since_s = self._incomplete_since_s
        return since_s is not None and now_s - since_s >= self.dead_after_s

    async def _round(self) -> None:
        clock = asyncio.get_running_loop().time
        if self._incomplete_since_s is None:
            self._incomplete_since_s = clock()
        try:
            async with asyncio.timeout(self.dead_after_s):
                await self._work()
        except self._outages:
            self._completed("away")
        except Exception as error:  # noqa: BLE001 - whatever a round raises, the next round is the retry
            self._failures += 1
            self.rounds["failed"] += 1
            self._log.error(
                "background_work_failed", work=self.name, in_a_row=self._failures, error=repr(error), exc_info=error
            )
        else:
            self._completed("done")

    def _completed(self, result: str) -> None:
        if self._failures:
            self._log.info("background_work_recovered", work=self.name, failures=self._failures)
        self._failures = 0
        self._incomplete_since_s = None
        self.rounds[result] += 1

    def _pause_s(self) -> float:
        doubled_s = self.every_s * 2.0 ** min(self._failures, _MAX_DOUBLINGS)
        return min(doubled_s, max(self.every_s, MAX_PAUSE_S))

    async def _sleep(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await self._wake.wait()
        except TimeoutError:
            pass


def dead(periodics: tuple[Periodic, ...], now_s: float) -> list[str]:
    """Returns the names of the dead works, for /readyz. `now_s` is the event loop's time."""
    return [work.name for work in periodics if work.is_dead(now_s)]
