"""One socket's life: its lanes, the turns that wait in them, and when it ends.

| a message                               | what happens                                                              |
|-----------------------------------------|---------------------------------------------------------------------------|
| `response.create`                       | a turn of its lane: one at a time, the others wait, in their order        |
| the same, for one lane too many, or     | error `too_many_turns`; the turns before go on                            |
| behind too many that wait               |                                                                           |
| the same, with `generate: false`        | answered here: warm_up.py                                                 |
| `response.steer`                        | steering.py                                                               |
| of any other type                       | nothing: clients send `response.processed`, and would take an answer for  |
|                                         | one to their next turn                                                    |
| that is none                            | error; after `MOST_BROKEN` in a row, close 1008                           |

| a socket                                | ends, when no turn runs                                                   |
|-----------------------------------------|---------------------------------------------------------------------------|
| whose key is not valid any more         | 1008, behind the refusal of the turn                                      |
| of a worker that stops                  | 1012                                                                      |
| that remembers too much                 | 1012: its client comes back, and sends its past again                     |
| of `max_age_s`                          | error `websocket_connection_limit_reached`, 1001                          |
| without a turn for `idle_s`             | 1001                                                                      |

Codes: RFC 6455, 7.4. SDKs connect again after 1001 and 1012 and not after 1008.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple, Protocol

import structlog
from websockets.frames import CloseCode

from gateway.concurrency.off_loop import LONG_BYTES
from gateway.errors import GatewayError, JsonScalar
from gateway.http.websocket_connection import WebSocketConnection
from gateway.protocol.body_bounds import BodyBounds
from gateway.types import Scope
from gateway.upstream.websocket_pool import SessionSockets
from gateway.websocket.memory import LaneMemory
from gateway.websocket.messages import CREATE, STEER, Message, gateway_error_message, read_message
from gateway.websocket.steering import Steering
from gateway.websocket.turn import SocketTurn, TurnHandler
from gateway.websocket.turn_client import LeaveWatch

MOST_BROKEN: Final = 16
_WAIT_MS: Final = 1000


class SessionBounds(NamedTuple):
    """Bounds of one socket. Bytes are of messages that wait, and of what is remembered."""

    max_lanes: int
    max_queued: int
    max_queued_bytes: int
    max_memory_bytes: int
    idle_s: float
    max_age_s: float


class Worker(Protocol):
    """What a session needs of its worker."""

    handler: TurnHandler
    bounds: SessionBounds
    body_bounds: BodyBounds

    def remembered(self, by: int) -> None:
        """What sockets remember has grown by so many bytes."""

    def has_ended(self, session: Session, code: int) -> None:
        """A socket is closed."""

    def turn_ended(self, session: Session, result: str, transport: Sequence[tuple[str, str]]) -> None:
        """A turn has ended: `answered`, `refused`, `warm_up` or `left`. `transport`: see `TurnTransport.results`."""


class Ending(NamedTuple):
    """How a socket is to end, when no turn runs any more. `error`: what its client is told first."""

    code: int
    reason: str
    error: GatewayError | None = None


class Session:
    """One socket's. `scope`: its upgrade's, as turns have it. `upstreams`: its sockets to upstreams.

    State that changes: the lanes with a turn, `running`, and what waits; what is remembered; how it is to end; since
    when no turn runs; how many turns there were.
    """

    __slots__ = (
        "_broken", "_ending", "_lanes", "_queued", "_queued_bytes", "_steering", "_unread", "_worker", "connection",
        "idle_since_s", "key_id", "memory", "opened_s", "running", "scope", "socket_id", "turns", "upstreams",
        "watches",
    )  # fmt: skip

    def __init__(
        self, worker: Worker, connection: WebSocketConnection, scope: Scope, socket_id: str, key_id: str
    ) -> None:
        self.connection = connection
        self.scope = scope
        self.socket_id = socket_id
        self.key_id = key_id
        self.memory = LaneMemory(worker.remembered)
        self.upstreams = SessionSockets()
        self.watches: set[LeaveWatch] = set()
        self.running: dict[str, SocketTurn] = {}
        self.turns = 0
        self.opened_s = self.idle_since_s = connection.loop.time()
        self._worker = worker
        self._steering = Steering(self, worker.handler, worker.bounds.max_queued, worker.bounds.max_queued_bytes)
        self._lanes: dict[str, deque[Message]] = {}
        self._queued = 0
        self._queued_bytes = 0
        self._broken = 0
        self._unread: deque[bytes] = deque()
        self._ending: Ending | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a turn runs."""
        return bool(self._lanes)

    def end(self, ending: Ending) -> None:
        """Ends the socket as soon as no turn runs. What waits then is not begun."""
        if self._ending is None:
            self._ending = ending
        if not self._lanes:
            self._end_now()

    def tick(self, now_s: float) -> None:
        """About once a second: what is due."""
        self.connection.tick(now_s)
        self.upstreams.tick(now_s)
        bounds = self._worker.bounds
        if self._ending is not None:
            return
        if now_s - self.opened_s >= bounds.max_age_s:
            minutes = bounds.max_age_s / 60
            limit = GatewayError(
                "websocket_connection_limit_reached",
                f"This connection has reached its limit of {minutes:g} minutes. Open another one to go on.",
            )
            self.end(Ending(CloseCode.GOING_AWAY, "The connection has reached its age.", limit))
        elif not self._lanes and now_s - self.idle_since_s >= bounds.idle_s:
            self.end(Ending(CloseCode.GOING_AWAY, "No turn came for a long time."))

    # for the connection

    def on_message(self, text: bytes) -> None:
        """See `websocket_connection.Listener`."""
        if not self._unread and len(text) <= LONG_BYTES:
            self._take(_read(text, self._worker.body_bounds))
            return
        self._unread.append(text)
        if len(self._unread) == 1:
            self.connection.hold()
            self.connection.spawn(self._read_long())

    async def _read_long(self) -> None:
        """Reads large messages off the event loop, and those behind them in their order. Meanwhile no more come."""
        try:
            while self._unread:
                text = self._unread[0]
                read = partial(_read, text, self._worker.body_bounds)
                off_loop = self._worker.handler.snapshot.off_loop
                found = await off_loop.run(read) if len(text) > LONG_BYTES else read()
                self._unread.popleft()
                self._take(found)
        finally:
            self._unread.clear()
            self.connection.go_on()

    def _take(self, message: Message | GatewayError) -> None:
        if self._ending is not None:
            return
        if isinstance(message, GatewayError):
            self._broken += 1
            self.connection.send([gateway_error_message(message, "")])
            if self._broken >= MOST_BROKEN:
                self.connection.close(CloseCode.POLICY_VIOLATION, "Too many messages that are none.")
            return
        self._broken = 0
        if message.kind == CREATE:
            self._begin_or_queue(message)
        elif message.kind == STEER:
            self._steering.steer(message)

    def on_close(self, code: int) -> None:
        """See `websocket_connection.Listener`."""
        if self._ending is None:
            self._ending = Ending(code, "")
        self.memory.clear()
        self.upstreams.end()
        for queue in self._lanes.values():
            queue.clear()
        watches, self.watches = self.watches, set()
        for watch in watches:
            watch.on_leave()
        self._worker.has_ended(self, code)

    def on_shutdown(self) -> None:
        """See `websocket_connection.Listener`."""
        self.end(Ending(CloseCode.SERVICE_RESTART, "This gateway is stopping. Connect again."))

    # inside

    def _begin_or_queue(self, message: Message) -> None:
        bounds, size = self._worker.bounds, len(message.text)
        queue = self._lanes.get(message.lane)
        if queue is None:
            if len(self._lanes) >= bounds.max_lanes:
                self._refuse(message, f"{bounds.max_lanes} lanes run here: wait until one has ended.", bounds.max_lanes)
                return
            queue = self._lanes[message.lane] = deque()
            self.connection.spawn(self._run(message, queue))
        elif self._queued >= bounds.max_queued or self._queued_bytes + size > bounds.max_queued_bytes:
            self._refuse(message, f"{self._queued} turns wait here already: send one later.", bounds.max_queued)
        else:
            queue.append(message)
            self._queued += 1
            self._queued_bytes += size

    def _refuse(self, message: Message, text: str, limit: int) -> None:
        explain: dict[str, JsonScalar] = {"limit": limit, "scope": "connection", "limit_source": "gateway"}
        error = GatewayError("too_many_turns", text, wait_ms=_WAIT_MS, explain=explain)
        self.connection.send([gateway_error_message(error, message.lane)])

    async def _run(self, message: Message, queue: deque[Message]) -> None:
        """The turns of one lane, until none waits."""
        lane = message.lane
        try:
            await self._turn(message)
            while queue and self._ending is None:
                message = queue.popleft()
                self._queued -= 1
                self._queued_bytes -= len(message.text)
                await self._turn(message)
        except Exception as error:  # noqa: BLE001 - a bug ends the lane's turn, never the socket's others
            structlog.get_logger("gateway.websocket").error("turn_crashed", exc_info=error)
        finally:
            self._queued -= len(queue)
            self._queued_bytes -= sum(len(waiting.text) for waiting in queue)
            del self._lanes[lane]
            self.idle_since_s = self.connection.loop.time()
            if self._ending is not None and not self._lanes:
                self._end_now()

    async def _turn(self, message: Message) -> None:
        self.running[message.lane] = turn = SocketTurn(self, message, self._worker.handler)
        self.turns += 1
        try:
            result = await turn.run()
        finally:
            del self.running[message.lane]
        self._ended(turn, result)
        await self._steering.finish(message.lane)

    def followed(self, turn: SocketTurn, result: str) -> None:
        """See `steering.SteerableSocket`."""
        self.turns += 1
        self._ended(turn, result)

    def _ended(self, turn: SocketTurn, result: str) -> None:
        self._worker.turn_ended(self, result, () if turn.transport is None else turn.transport.results)
        if turn.is_unauthorized:
            self.end(Ending(CloseCode.POLICY_VIOLATION, "The key is not valid any more."))
        elif self.memory.size > self._worker.bounds.max_memory_bytes:
            self.end(Ending(CloseCode.SERVICE_RESTART, "The responses are too large to remember. Connect again."))

    def _end_now(self) -> None:
        ending = self._ending
        if ending is None or not self.connection.is_open:
            return
        if ending.error is not None:
            self.connection.send([gateway_error_message(ending.error, "")])
        self.connection.close(ending.code, ending.reason)


def _read(text: bytes, bounds: BodyBounds) -> Message | GatewayError:
    """A message, or what is wrong with it. In any thread."""
    try:
        return read_message(text, bounds)
    except GatewayError as error:
        return error
