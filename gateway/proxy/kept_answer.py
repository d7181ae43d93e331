"""An answer that the gateway keeps, as its client is shown it: it passes through its turn, which stores it."""

from __future__ import annotations

from gateway.billing.lifecycle import Outcome
from gateway.errors import GatewayError
from gateway.observability.request_record import RequestRecord
from gateway.proxy.failover import InvalidAnswer
from gateway.state.turn import Turn


class KeptAnswer:
    """The answer of one turn. The id that is shown is also written into the request's record."""

    def __init__(self, turn: Turn, record: RequestRecord) -> None:
        self.turn = turn
        self._record = record

    async def whole(self, body: bytes) -> bytes:
        """Returns a complete answer as the client is shown it."""
        try:
            return self._noted(await self.turn.whole(body))
        except GatewayError as error:  # the answer is not what the turn needs; its work is done, and costs its usage
            raise InvalidAnswer(Outcome.INVALID_ANSWER, error.message) from None

    async def end(self, closing: bytes) -> bytes:
        """Returns the events that the turn still holds, then the gateway's own closing events if there are any."""
        return self._noted(await self.turn.finish(closing, clean=not closing))

    async def broken(self, closing: bytes) -> bytes:
        """Returns the gateway's own closing events, after a stream that broke off."""
        return self._noted(await self.turn.finish(closing, clean=False))

    def _noted(self, shown: bytes) -> bytes:
        self._record.response_id = self.turn.response_id
        return shown
