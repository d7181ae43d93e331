"""`response.steer` to an upstream, and the turn that follows a steered one by itself.

    sent                          the steering of a turn that runs; its successor's credits are held already
    response.steer.accepted       passed on; the steerings that were accepted before have the same successor
    response.steer.failed         passed on; there is no successor, unless there are others
    response.steer.pending        the same: it waits for its client's tool results
    the turn ends                 its successor has `SUCCESSOR_S` to begin
    response.created              the successor's first event

Where there is none, `NoSuccessor` is raised: nothing is charged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.errors import GatewayError
from gateway.types import Body, Headers
from gateway.upstream.transport import Answer, FaultKind, Progress, UpstreamFault
from gateway.upstream.websocket import UpstreamSocket
from gateway.upstream.websocket_messages import ACCEPTED, PENDING, Told
from gateway.upstream.websocket_pool import UpstreamSockets
from gateway.upstream.websocket_turn import UpstreamTurn

SUCCESSOR_S: Final = 30.0


class NoSuccessor(GatewayError):
    """No turn follows. `told`: the client has been told so by the upstream."""

    def __init__(self, message: str, *, told: bool) -> None:
        super().__init__("steering_failed", message)
        self.told = told


class SteeringTransport:
    """The successor's way: it begins where the steered turn runs, or not at all. See `websocket_pool.TurnTransport`.

    `on_answer` is given the upstream's messages about the steering. `after`: the client has all of the steered turn, so
    that the successor's events may follow. `sent`: is set when the steering has been sent.

    State that changes: `turn`, when it has begun; what is known of the steering: its `identifier`, that it
    `is_accepted` and `is_pending`; the `ids` of all for which it waits, and of those that have `failed` since.
    """

    __slots__ = (
        "_after", "_ended", "_message", "_on_answer", "_sent", "_waiter", "failed", "identifier", "ids", "is_accepted",
        "is_pending", "lane", "results", "socket", "turn",
    )  # fmt: skip

    def __init__(
        self,
        steered: UpstreamTurn,
        socket: UpstreamSocket,
        message: bytes,
        on_answer: Callable[[bytes], object],
        after: asyncio.Event,
        sent: asyncio.Event,
    ) -> None:
        self.lane = steered.lane
        self.socket: UpstreamSocket | None = socket
        self.turn: UpstreamTurn | None = None
        self.results: list[tuple[str, str]] = []
        self._message = message
        self._on_answer = on_answer
        self._after = after
        self._sent = sent
        self.identifier = ""
        self.is_accepted = self.is_pending = False
        self.ids: set[str] = set()
        self.failed: set[str] = set()
        self._ended: UpstreamFault | NoSuccessor | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def was_told(self) -> bool:
        """Whether the client has been told by the upstream that no turn follows."""
        return isinstance(self._ended, NoSuccessor) and self._ended.told

    def prefers(self, pool: UpstreamSockets | None, fingerprint: str) -> bool:
        """See `TurnTransport.prefers`. Nobody else can continue the turn."""
        socket = self.socket
        return socket is not None and socket.owner is pool and socket.fingerprint == fingerprint

    async def ask(
        self,
        pool: UpstreamSockets | None,
        fingerprint: str,
        target: bytes,
        headers: Headers,
        body: Body,
        progress: Progress | None,
    ) -> Answer:
        """See `TurnTransport.ask`. Raises NoSuccessor too."""
        del target, headers, body, progress
        socket = self.socket
        if not self.prefers(pool, fingerprint) or socket is None or not self._runs(socket):
            raise NoSuccessor("The response that was to be steered has ended.", told=False)
        self._waiter = socket.loop.create_future()
        timer: asyncio.TimerHandle | None = None
        socket.steer(self.lane, self, self._message)
        self._sent.set()
        try:
            while self.turn is None and self._ended is None:
                await self._waiter
                self._waiter = socket.loop.create_future()
                if timer is None and not self._runs(socket):
                    timer = socket.loop.call_later(SUCCESSOR_S, self._give_up)
        finally:
            socket.forget_watch(self)
            if timer is not None:
                timer.cancel()
            if self.turn is None and socket.is_retired:
                socket.retire()
        if self.turn is None:
            raise self._ended or NoSuccessor("No response follows.", told=False)
        return await self._begun(self.turn)

    async def _begun(self, turn: UpstreamTurn) -> Answer:
        try:
            if not turn.begun:
                await turn.wait_until_begun(turn.config.first_byte_timeout_s)
            await self._after.wait()
        except asyncio.CancelledError:
            turn.answer.abort()
            raise
        if turn.answer.fault is not None and not turn.answer.status:
            raise turn.answer.fault
        return turn.answer

    # websocket_watches.SteeringWatch

    def on_answer(self, told: Told, message: bytes, identifier: str) -> None:
        """See `websocket_watches.SteeringWatch`."""
        self._on_answer(message)
        if told.kind == ACCEPTED:
            self.is_accepted, self.identifier = True, identifier
            self.ids |= {identifier} - {""}
        else:
            self.ids.discard(identifier)
            if told.kind == PENDING:
                self.is_pending = True
            elif identifier:
                self.failed.add(identifier)
            if not self.ids:
                self._ended = self._ended or NoSuccessor(f"The provider answered {told.kind}.", told=True)
        self._wake()

    def on_replaced(self) -> None:
        """See `websocket_watches.SteeringWatch`."""
        self._ended = NoSuccessor("The response that follows has the input of a later steering, too.", told=True)
        self._wake()

    def on_turn_end(self, *, clean: bool) -> None:
        """See `websocket_watches.SteeringWatch`."""
        if not clean and self.turn is None and self._ended is None:
            if self.is_accepted:  # the successor may have begun: it is settled as a turn whose connection died
                self._ended = UpstreamFault(FaultKind.RESET, "the connection died before the successor", sent=True)
            else:
                self._ended = NoSuccessor("The provider's connection ended.", told=False)
        self._wake()

    def successor(self) -> UpstreamTurn | None:
        """See `websocket_watches.SteeringWatch`."""
        socket = self.socket
        if socket is None or self._ended is not None:
            return None
        self.turn = socket.turn_of(self.lane)
        self._wake()
        return self.turn

    # inside

    def _runs(self, socket: UpstreamSocket) -> bool:
        running = socket.turns.get(self.lane)
        return running is not None and not running.has_ended and not running.is_over

    def _give_up(self) -> None:
        if self.turn is None and self._ended is None:
            self._ended = NoSuccessor("No response followed.", told=self.is_accepted)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
