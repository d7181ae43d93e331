"""Follows the events of a background response from any worker: those so far, and then each new one, up to the end.

    async for data in follow(background, team_id, response_id, after): ...    whole events, `[DONE]` at the end

The events of a response that has ended are returned at once. If they were too large to be kept, the end of the stream
is made from the response itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from gateway.protocol.response_events import RUNNING
from gateway.state.background import Background
from gateway.state.event_log import EventLog
from gateway.state.replay import events, terminal_event

DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"
"""A comment for proxies that close silent connections."""
_POLL_S: Final = 0.1
_SILENCE_S: Final = 15.0


async def follow(background: Background, team_id: str, response_id: str, number: int) -> AsyncIterator[bytes]:
    """Yields the events after the one with this number (-1: all of them). Raises GatewayError."""
    clock = asyncio.get_running_loop().time
    written_s = clock()
    while True:
        found = await background.events(team_id, response_id, number)
        if found.data:
            number, written_s = found.last, clock()
            yield found.data
        if found.is_over:
            break
        if not found.data:
            if clock() - written_s >= _SILENCE_S:
                written_s = clock()
                yield KEEP_ALIVE
            await asyncio.sleep(_POLL_S)
    if found.are_gone:
        yield await _replay_end(background, team_id, response_id, number)
    yield DONE


async def _replay_end(background: Background, team_id: str, response_id: str, number: int) -> bytes:
    """Returns events that are made from the response, after this number. There is at least the last one."""
    record = await background.responses.read(team_id, response_id)
    if record is None or record.status in RUNNING:
        return b""
    replayed = events(record.response)[number + 1 :]
    if replayed:
        return b"".join(replayed)
    log = EventLog(0, end=number + 1)
    log.add(*terminal_event(record.response))
    piece = log.unsent
    return b"" if piece is None else piece.data
