"""Work that takes long and waits for nothing: it runs in threads, and the event loop serves the others meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

LONG_BYTES: Final = 64 * 1024
"""To look at fewer bytes takes less than a few milliseconds, whatever they hold: that is done at once."""


class OffLoop:
    """One worker's threads. What is more than they can do waits in line.

    A thread shares the interpreter's lock with the loop. It gives the lock up every few milliseconds, but only between
    two calls: what runs here makes no call that takes long.
    """

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="off-loop")

    async def run(self, work: Callable[[], T]) -> T:
        """The work's result. Where its caller is cancelled, work that has begun goes on, and its result is dropped."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def run_to_end(self, work: Callable[[], T]) -> T:
        """The same for work on something that its caller uses afterwards: a cancellation waits until it has ended."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.cancel():  # it has begun
                await asyncio.wait({future})
            raise

    def close(self) -> None:
        """Takes no more work. What runs is waited for when the process ends."""
        self._executor.shutdown(wait=False, cancel_futures=True)
