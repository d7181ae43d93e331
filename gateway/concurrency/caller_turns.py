"""Bounds what is done for one caller at a time, so that others keep their pace. The admin API uses it.

running         at most `max_parallel` calls of one caller
waiting         up to `max_waiting` more, first come, first served
beyond          429 `concurrency_exceeded`, with the time to come back
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from gateway.errors import GatewayError

_RETRY_AFTER_MS: Final = 1000


@dataclass(slots=True)
class _Caller:
    """The calls of one caller. Mutable."""

    running: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class CallerTurns:
    """The calls that run and wait in one worker. Mutable."""

    def __init__(self, max_parallel: int, max_waiting: int) -> None:
        self._max_parallel = max_parallel
        self._max_waiting = max_waiting
        self._callers: dict[str, _Caller] = {}

    @contextlib.asynccontextmanager
    async def turn(self, caller_id: str) -> AsyncIterator[None]:
        """Waits until it is this call's turn. Raises GatewayError `concurrency_exceeded` if too many wait already."""
        caller = self._callers.setdefault(caller_id, _Caller())
        if caller.running < self._max_parallel:
            caller.running += 1
        elif len(caller.waiting) >= self._max_waiting:
            raise GatewayError(
                "concurrency_exceeded",
                f"{self._max_parallel} calls with this key run, and {self._max_waiting} wait for their turn.",
                wait_ms=_RETRY_AFTER_MS,
            )
        else:
            await self._wait(caller)
        try:
            yield
        finally:
            self._pass_on(caller_id, caller)

    async def _wait(self, caller: _Caller) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        caller.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was this call's turn in the very moment of its end
                self._pass_on("", caller)
            else:
                caller.waiting.remove(turn)
            raise

    def _pass_on(self, caller_id: str, caller: _Caller) -> None:
        """Gives a turn to whoever waits for the longest time."""
        while caller.waiting:
            turn = caller.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        caller.running -= 1
        if not caller.running:
            self._callers.pop(caller_id, None)
