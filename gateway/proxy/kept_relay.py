"""Step 6 where the gateway keeps the response: what the client is shown goes through its turn, and so into the store.

An answer is passed on event by event, since its first event may wait for an id and its last one for the store.
"""

from __future__ import annotations

from gateway.http.client import Client
from gateway.observability.request_record import RequestRecord
from gateway.protocol.dialects.dialect import StreamForm
from gateway.protocol.sse_observer import SseObserver
from gateway.proxy.admission import Admitted, Opened
from gateway.proxy.keep_alive import keeping_alive
from gateway.proxy.relay import Relay
from gateway.state.turns import Turn


class KeptRelay(Relay):
    """The relay of one turn."""

    def __init__(self, admitted: Admitted, turn: Turn, client: Client, record: RequestRecord) -> None:
        super().__init__(admitted, client, record)
        self._turn = turn

    async def _pass_stream(self, opened: Opened, form: StreamForm) -> None:
        client, answer, choices = self._client, opened.answer, self._admitted.request.bounds.choices
        observer = self._observer = SseObserver(form, opened.upstream.policy.max_event_bytes, choices)
        cap = self._cap()
        await client.start(answer.status, self._begin_stream())
        client.flush()
        with keeping_alive(client, observer, self._admitted.route.rule.keepalive_s):
            data = answer.read_nowait() or await self._read(opened)
            while data:
                observer.feed(data)
                if ready := await self._turn.stream(data):
                    await client.write(ready)
                if cap is not None and not observer.has_ended and observer.output_tokens_estimate() > cap:
                    await self._cut_at_cap(observer)
                    return
                data = await self._read(opened)
        await self.end_stream()

    async def _read(self, opened: Opened) -> bytes:
        self._reading = True
        try:
            return await opened.answer.read()
        finally:
            self._reading = False

    async def shown(self, closing: bytes) -> bytes:
        """The gateway's own closing events, with the id that the client has seen."""
        shown = await self._turn.finish(closing, clean=False)
        self._record.response_id = self._turn.response_id
        return shown

    async def _shown_whole(self, body: bytes) -> bytes:
        shown = await self._turn.whole(body)
        self._record.response_id = self._turn.response_id
        return shown

    async def _shown_end(self, rest: bytes, closing: bytes) -> bytes:
        del rest  # the turn holds it, too
        shown = await self._turn.finish(closing, clean=not closing)
        self._record.response_id = self._turn.response_id
        return shown
