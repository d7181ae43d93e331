"""Step 6 when the gateway keeps the response: each answer passes through its turn, which stores it.

An answer is passed on event by event, because its first event may wait for an id and its last one for the store.
"""

from __future__ import annotations

from gateway.billing.lifecycle import Outcome
from gateway.errors import GatewayError
from gateway.http.client import Client
from gateway.observability.request_record import RequestRecord
from gateway.protocol.dialects.dialect import StreamForm
from gateway.protocol.sse_framer import SseFramer
from gateway.proxy.admission import Admitted, Opened
from gateway.proxy.failover import InvalidAnswer
from gateway.proxy.keep_alive import keeping_alive
from gateway.proxy.large_answers import examine
from gateway.proxy.relay import Relay
from gateway.state.turn import Turn


class TurnAnswer:
    """A turn's answer as its client is shown it. It also writes the id that is shown into the request's record."""

    def __init__(self, turn: Turn, record: RequestRecord) -> None:
        self._turn = turn
        self._record = record

    async def whole(self, body: bytes) -> bytes:
        """Returns a complete answer as the client is shown it."""
        try:
            return self._noted(await self._turn.whole(body))
        except GatewayError as error:  # the answer is not what the turn needs; its work is done, and costs its usage
            raise InvalidAnswer(Outcome.INVALID_ANSWER, error.message) from None

    async def end(self, closing: bytes) -> bytes:
        """Returns the events that the turn still holds, then the gateway's own closing events if there are any."""
        return self._noted(await self._turn.finish(closing, clean=not closing))

    async def broken(self, closing: bytes) -> bytes:
        """Returns the gateway's own closing events, after a stream that broke off."""
        return self._noted(await self._turn.finish(closing, clean=False))

    def _noted(self, shown: bytes) -> bytes:
        self._record.response_id = self._turn.response_id
        return shown


class KeptRelay(Relay):
    """The relay of one turn."""

    def __init__(self, admitted: Admitted, turn: Turn, client: Client, record: RequestRecord) -> None:
        super().__init__(admitted, client, record)
        self._turn = turn
        self._kept = TurnAnswer(turn, record)

    async def run(self, opened: Opened) -> None:
        """See `Relay.run`. What is stored says who made it."""
        self._turn.maker = f"{opened.upstream.name} {opened.key.fingerprint}"
        await super().run(opened)

    async def _pass_stream(self, opened: Opened, form: StreamForm) -> None:
        client, answer = self._client, opened.answer
        framer, observer = self._framed(SseFramer, opened, form)
        cap = self._cap()
        data = opened.read + answer.read_nowait()
        with keeping_alive(client, framer, self._admitted.route.rule.keepalive_s):
            data = await self._begun(opened, form, data)
            client.flush()
            data = data or await self._read(opened)
            while data:
                framer.feed(data)
                await examine(observer, self._off_loop)
                if ready := await self._turn.stream(data):
                    await client.write(ready)
                if cap is not None and observer.exceeds(cap):
                    await self._cut_at_cap(framer)
                    return
                data = await self._read(opened)
        await self.end_stream()

    async def _read(self, opened: Opened) -> bytes:
        self._reading = True
        try:
            return await opened.answer.read()
        finally:
            self._reading = False
