"""Runs long computations in threads, so that the event loop serves other requests meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

LONG_BYTES: Final = 64 * 1024
"""Fewer bytes are processed on the loop: that takes at most a few milliseconds, whatever they contain."""


class OffLoop:
    """The threads of one worker. Further work waits in a queue.

    A thread shares the interpreter's lock with the loop. It releases the lock every few milliseconds, but only between
    two calls of C code. Therefore work that runs here makes no single call that takes long.
    """

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="off-loop")

    def begin(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Begins the work. Returns the future of its result."""
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def run(self, work: Callable[[], T]) -> T:
        """Returns the work's result. If the caller is cancelled, begun work goes on, and its result is lost."""
        return await self.begin(work)

    async def run_to_end(self, work: Callable[[], T]) -> T:
        """Like `run`, but a cancellation waits until the work has ended. For data that the caller uses later."""
        future = self.begin(work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.cancel():  # it has begun
                await asyncio.wait({future})
            raise

    def close(self, *, drop_waiting: bool = True) -> None:
        """Accepts no more work. The process waits for running work when it ends, and for waiting work if it is kept."""
        self._executor.shutdown(wait=False, cancel_futures=drop_waiting)
