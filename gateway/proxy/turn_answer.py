"""An answer that the gateway stores. It passes through its turn, which stores and rewrites it for the client."""

from __future__ import annotations

from gateway.billing.lifecycle import Outcome
from gateway.errors import GatewayError
from gateway.observability.request_record import RequestRecord
from gateway.proxy.failover import InvalidAnswer
from gateway.state.turn import Turn


class TurnAnswer:
    """The answer of one turn. The id that the client sees is also written into the request's record."""

    def __init__(self, turn: Turn, record: RequestRecord) -> None:
        self.turn = turn
        self._record = record

    async def whole(self, body: bytes) -> bytes:
        """Returns a complete answer in the form that the client receives."""
        try:
            return self._noted(await self.turn.whole(body))
        except GatewayError as error:  # the turn cannot use the answer, but its usage is charged
            raise InvalidAnswer(Outcome.INVALID_ANSWER, error.message) from None

    async def end(self, closing: bytes) -> bytes:
        """Returns the events that the turn still holds, then the gateway's own closing events if there are any."""
        return self._noted(await self.turn.finish(closing, clean=not closing))

    async def broken(self, closing: bytes) -> bytes:
        """Returns the gateway's own closing events, after a stream that broke off."""
        return self._noted(await self.turn.finish(closing, clean=False))

    def _noted(self, answer: bytes) -> bytes:
        self._record.response_id = self.turn.response_id
        return answer
