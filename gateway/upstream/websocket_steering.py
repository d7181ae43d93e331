"""Steers a running turn of an upstream by `response.steer`, and receives the turn that follows it by itself.

    response.steer is sent        the credits of the successor are held already
    response.steer.accepted       passed on; steerings that were accepted before have the same successor
    response.steer.failed         passed on; there is no successor, unless other steerings were accepted
    response.steer.pending        the same, because the provider waits for tool results
    the steered turn ends         its successor has `SUCCESSOR_S` to begin
    response.created              the first event of the successor

If there is no successor, `NoSuccessor` is raised, and nothing is charged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.errors import GatewayError
from gateway.types import Body, Headers
from gateway.upstream.transport import Answer, FaultKind, Progress, UpstreamFault
from gateway.upstream.websocket import UpstreamSocket
from gateway.upstream.websocket_messages import ACCEPTED, PENDING, UpstreamMessage
from gateway.upstream.websocket_pool import UpstreamSockets
from gateway.upstream.websocket_turn import UpstreamTurn

SUCCESSOR_S: Final = 30.0


class NoSuccessor(GatewayError):
    """No turn follows. `client_informed`: the client has received a message of the upstream about it."""

    def __init__(self, message: str, *, client_informed: bool) -> None:
        super().__init__("steering_failed", message)
        self.client_informed = client_informed


class SteeringTransport:
    """Receives the successor of a steered turn, on the same connection. See `websocket_pool.TurnTransport`.

    `on_answer` is called with the upstream's messages about the steering. `steered_is_sent` is set when the client has
    received all of the steered turn, so that the events of the successor may follow. `sent` is set when the steering
    has been sent.

    State that changes: `turn`, the successor after it has begun, or else the outcome without one; the `identifier` of
    the steering, whether it `is_accepted` or `is_pending`; the `ids` of all steerings whose successor it awaits, and of
    those that have `failed` since they were accepted.
    """

    __slots__ = (
        "_message", "_on_answer", "_outcome", "_sent", "_steered_is_sent", "_waiter", "failed", "identifier", "ids",
        "is_accepted", "is_pending", "lane", "results", "socket", "turn",
    )  # fmt: skip

    def __init__(
        self,
        steered: UpstreamTurn,
        socket: UpstreamSocket,
        message: bytes,
        on_answer: Callable[[bytes], object],
        steered_is_sent: asyncio.Event,
        sent: asyncio.Event,
    ) -> None:
        self.lane = steered.lane
        self.socket: UpstreamSocket | None = socket
        self.turn: UpstreamTurn | None = None
        self.results: list[tuple[str, str]] = []
        self._message = message
        self._on_answer = on_answer
        self._steered_is_sent = steered_is_sent
        self._sent = sent
        self.identifier = ""
        self.is_accepted = self.is_pending = False
        self.ids: set[str] = set()
        self.failed: set[str] = set()
        self._outcome: UpstreamFault | NoSuccessor | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def client_informed(self) -> bool:
        """Whether the client has received a message of the upstream that no turn follows."""
        return isinstance(self._outcome, NoSuccessor) and self._outcome.client_informed

    def prefers(self, pool: UpstreamSockets | None, fingerprint: str) -> bool:
        """See `TurnTransport.prefers`. Only the connection of the steered turn has the successor."""
        socket = self.socket
        return socket is not None and socket.owner is pool and socket.fingerprint == fingerprint

    async def send(
        self,
        pool: UpstreamSockets | None,
        fingerprint: str,
        target: bytes,
        headers: Headers,
        body: Body,
        progress: Progress | None,
    ) -> Answer:
        """See `TurnTransport.send`. Also raises NoSuccessor."""
        del target, headers, body, progress
        socket = self.socket
        if not self.prefers(pool, fingerprint) or socket is None or not self._runs(socket):
            raise NoSuccessor("The response that was to be steered has ended.", client_informed=False)
        self._waiter = socket.loop.create_future()
        timer: asyncio.TimerHandle | None = None
        socket.steer(self.lane, self, self._message)
        self._sent.set()
        try:
            while self.turn is None and self._outcome is None:
                await self._waiter
                self._waiter = socket.loop.create_future()
                if timer is None and not self._runs(socket):
                    timer = socket.loop.call_later(SUCCESSOR_S, self._give_up)
        finally:
            socket.remove_steering_listener(self)
            if timer is not None:
                timer.cancel()
            if self.turn is None and socket.is_retired:
                socket.retire()
        if self.turn is None:
            raise self._outcome or NoSuccessor("No response follows.", client_informed=False)
        return await self._wait_for_answer(self.turn)

    async def _wait_for_answer(self, turn: UpstreamTurn) -> Answer:
        try:
            if not turn.has_begun:
                await turn.wait_until_begun(turn.config.first_byte_timeout_s)
            await self._steered_is_sent.wait()
        except asyncio.CancelledError:
            turn.answer.abort()
            raise
        if turn.answer.fault is not None and not turn.answer.status:
            raise turn.answer.fault
        return turn.answer

    # websocket_listeners.SteeringListener

    def on_answer(self, message: UpstreamMessage) -> None:
        """See `websocket_listeners.SteeringListener`."""
        head, identifier = message.head, message.identifier
        self._on_answer(message.text)
        if head.kind == ACCEPTED:
            self.is_accepted, self.identifier = True, identifier
            self.ids |= {identifier} - {""}
        else:
            self.ids.discard(identifier)
            if head.kind == PENDING:
                self.is_pending = True
            elif identifier:
                self.failed.add(identifier)
            if not self.ids:
                self._outcome = self._outcome or NoSuccessor(
                    f"The provider answered {head.kind}.", client_informed=True
                )
        self._wake()

    def on_replaced(self) -> None:
        """See `websocket_listeners.SteeringListener`."""
        self._outcome = NoSuccessor(
            "The response that follows has the input of a later steering, too.", client_informed=True
        )
        self._wake()

    def on_turn_end(self, *, clean: bool) -> None:
        """See `websocket_listeners.SteeringListener`."""
        if not clean and self.turn is None and self._outcome is None:
            if self.is_accepted:  # the successor may have begun: it is settled as a turn whose connection died
                self._outcome = UpstreamFault(FaultKind.RESET, "the connection died before the successor", sent=True)
            else:
                self._outcome = NoSuccessor("The provider's connection ended.", client_informed=False)
        self._wake()

    def successor(self) -> UpstreamTurn | None:
        """See `websocket_listeners.SteeringListener`."""
        socket = self.socket
        if socket is None or self._outcome is not None:
            return None
        self.turn = socket.new_turn(self.lane)
        self._wake()
        return self.turn

    # inside

    def _runs(self, socket: UpstreamSocket) -> bool:
        running = socket.turns.get(self.lane)
        return running is not None and not running.has_ended and not running.is_over

    def _give_up(self) -> None:
        if self.turn is None and self._outcome is None:
            self._outcome = NoSuccessor("No response followed.", client_informed=self.is_accepted)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
