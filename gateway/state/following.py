"""Follows the events of a response from any worker: those so far, and then each new one, up to the end.

    async for data in follow(background, team_id, response_id, after): ...    whole events, `[DONE]` at the end

The events of a response in the background that has ended are returned at once. If they were too large to be kept, the
end of the stream is made from the response itself. So is the whole stream of a response that runs in front of its
client elsewhere, because its events are not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from gateway.protocol.response_events import RUNNING
from gateway.state.background import Background
from gateway.state.replay import events_after

DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"
"""A comment for proxies that close silent connections."""
_POLL_S: Final = 0.1
_SILENCE_S: Final = 15.0


async def follow(background: Background, team_id: str, response_id: str, number: int) -> AsyncIterator[bytes]:
    """Yields the events after the one with this number (-1: all of them). Raises GatewayError."""
    silence = _Silence()
    while True:
        found = await background.events(team_id, response_id, number)
        if found.data:
            number = found.last
            yield silence.broken_by(found.data)
        if found.is_over:
            break
        if not found.data and (comment := await silence.pause()):
            yield comment
    if found.are_gone:
        async for data in _replay(background, team_id, response_id, number):
            yield data
    yield DONE


async def _replay(background: Background, team_id: str, response_id: str, number: int) -> AsyncIterator[bytes]:
    """Yields events that are made from the response, after this number. The last ones wait until it has ended."""
    silence = _Silence()
    while (record := await background.responses.read(team_id, response_id)) is not None:
        rest = events_after(record.response, number)
        if rest:
            number += len(rest)
            yield silence.broken_by(b"".join(rest))
        if record.status not in RUNNING:
            return
        if comment := await silence.pause():
            yield comment


class _Silence:
    """How long a stream has been silent. Mutable: since when."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._since_s = self._clock()

    def broken_by(self, data: bytes) -> bytes:
        """Returns the data, which ends the silence."""
        self._since_s = self._clock()
        return data

    async def pause(self) -> bytes:
        """Waits until there may be something new. Returns a comment if the silence has lasted too long."""
        await asyncio.sleep(_POLL_S)
        return self.broken_by(KEEP_ALIVE) if self._clock() - self._since_s >= _SILENCE_S else b""
