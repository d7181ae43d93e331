"""Sends answers to `response.steer` to a client, in their order. They repeat its input, so that they may be large.

    answers.send(make, size)     `make` returns the message, of about `size` bytes

A large one is made and framed in a thread, and the answers behind it wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from gateway.concurrency.off_loop import LONG_BYTES, OffLoop


class Connection(Protocol):
    """What the answers need of their WebSocket connection."""

    loop: asyncio.AbstractEventLoop

    def spawn(self, work: Any) -> None:
        """Runs `work` as a task."""

    def framed(self, message: bytes) -> bytes:
        """Returns a message as a frame. May run in any thread."""

    def send(self, messages: list[bytes]) -> bool:
        """Sends messages."""

    def send_framed(self, frames: list[bytes]) -> bool:
        """Sends messages that are frames already."""


class _Answer(NamedTuple):
    make: Callable[[], bytes]
    sent: asyncio.Future[int]


class SteeringAnswers:
    """The answers on one WebSocket. State that changes: those that wait behind a large one, with it at their head."""

    def __init__(self, connection: Connection, off_loop: OffLoop) -> None:
        self._connection = connection
        self._off_loop = off_loop
        self._waiting: deque[_Answer] = deque()

    def send(self, make: Callable[[], bytes], size: int) -> None:
        """Sends an answer, now or behind those that wait."""
        self._begin(make, size)

    async def send_whole(self, make: Callable[[], bytes], size: int) -> int:
        """Sends an answer, and waits until it is sent. Returns its length."""
        return await self._begin(make, size).sent

    def _begin(self, make: Callable[[], bytes], size: int) -> _Answer:
        answer = _Answer(make, self._connection.loop.create_future())
        if size <= LONG_BYTES and not self._waiting:
            message = make()
            self._connection.send([message])
            answer.sent.set_result(len(message))
            return answer
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            self._connection.spawn(self._send_waiting())
        return answer

    async def _send_waiting(self) -> None:
        def framed() -> tuple[int, bytes]:
            message = make()
            return len(message), self._connection.framed(message)

        try:
            while self._waiting:
                make, sent = self._waiting[0]
                length, frame = await self._off_loop.run(framed)
                self._connection.send_framed([frame])
                self._waiting.popleft()
                if not sent.done():
                    sent.set_result(length)
        finally:  # the server stops: nobody is to wait
            for _, sent in self._waiting:
                sent.cancel()
            self._waiting.clear()
