"""Step 6 for a stream that the gateway stores. It passes through its turn, which stores and rewrites it.

Events are passed on one by one, because the first one may wait for an id and the last one for the store.
"""

from __future__ import annotations

import asyncio

from gateway.protocol.dialects.dialect import StreamForm
from gateway.protocol.sse_framing import slice_end
from gateway.proxy.admission import Opened
from gateway.proxy.exchange import Exchange
from gateway.proxy.keep_alive import keeping_alive
from gateway.proxy.large_answers import examine
from gateway.proxy.output_cap import CapReached, cap_of
from gateway.proxy.stream_relay import StreamRelay
from gateway.proxy.turn_answer import TurnAnswer
from gateway.types import Body


class TurnStreamRelay(StreamRelay):
    """Passes one stream of a turn on. See `StreamRelay`."""

    def __init__(self, exchange: Exchange, opened: Opened, form: StreamForm, turn_answer: TurnAnswer) -> None:
        super().__init__(exchange, opened, form)
        self._turn_answer = turn_answer

    async def run(self) -> None:
        """See `StreamRelay.run`."""
        client, admitted = self._exchange.client, self._exchange.admitted
        max_tokens = cap_of(admitted)
        data = self._opened.already_read + self._opened.answer.read_nowait()
        with keeping_alive(client, self._framer, admitted.route.rule.keepalive_s):
            data = await self._begin_with_event(data)
            client.flush()
            data = data or await self._read()
            while data:
                at = 0
                while at < len(data):
                    if at:
                        await asyncio.sleep(0)
                    piece, at = data[at : (end := slice_end(data, at))], end
                    self._framer.feed(piece)
                    await examine(self.observer, self._off_loop)
                    if ready := await self._turn_answer.turn.stream(piece):
                        await client.write(ready)
                    if max_tokens is not None and self.observer.exceeds(max_tokens):
                        raise CapReached
                data = await self._read()
        await self.end()

    async def _read(self) -> bytes:
        self._is_reading = True
        try:
            return await self._opened.answer.read()
        finally:
            self._is_reading = False

    async def _write_end(self, rest: Body, closing: bytes) -> None:
        """Writes what the turn still holds, which includes `rest`, and the gateway's own closing events."""
        del rest
        await self._exchange.client.end(await self._turn_answer.end(closing))

    async def _shown(self, closing: bytes) -> bytes:
        return await self._turn_answer.broken(closing)
