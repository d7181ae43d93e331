"""One client's WebSocket: its lanes, the turns that wait in them, and its end.

| message                                 | what happens                                                              |
|-----------------------------------------|---------------------------------------------------------------------------|
| `response.create`                       | a turn in its lane; the turns of a lane run one at a time, in their order |
| the same, with too many lanes or        | error `too_many_turns`; the earlier turns go on                           |
| waiting turns                           |                                                                           |
| the same, with `generate: false`        | the gateway answers itself (warm_up.py)                                   |
| `response.steer`                        | see steering.py                                                           |
| any other type                          | ignored; an answer to `response.processed`, which clients send, would be  |
|                                         | mistaken for one to their next turn                                       |
| an invalid message                      | an error; after `MAX_INVALID_MESSAGES` in a row, close code 1008          |

| reason to end                           | close code, sent when no turn runs                                        |
|-----------------------------------------|---------------------------------------------------------------------------|
| the key is not valid any more           | 1008, after the refusal of the turn                                       |
| the worker stops                        | 1012                                                                      |
| the remembered responses are too large  | 1012; the client connects again, and sends its whole input                |
| the age reaches `max_age_s`             | error `websocket_connection_limit_reached`, 1001                          |
| no turn for `idle_s`                    | 1001                                                                      |

Codes: RFC 6455, 7.4. SDKs connect again after 1001 and 1012, and not after 1008.
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
from gateway.protocol.byte_search import is_utf8
from gateway.types import Scope
from gateway.upstream.websocket_pool import SessionSockets
from gateway.websocket.memory import LaneMemory
from gateway.websocket.messages import CREATE, STEER, Message, gateway_error_message, read_message
from gateway.websocket.steering import Steering
from gateway.websocket.turn import SocketTurn, TurnHandler
from gateway.websocket.turn_client import LeaveWatch

MAX_INVALID_MESSAGES: Final = 16
_WAIT_MS: Final = 1000


class SessionBounds(NamedTuple):
    """Bounds of one WebSocket: of its lanes, its waiting messages, its memory, its idle time and its age."""

    max_lanes: int
    max_queued: int
    max_queued_bytes: int
    max_memory_bytes: int
    idle_s: float
    max_age_s: float


class Worker(Protocol):
    """The part of a worker that its sessions use. `sockets.Sockets` implements it."""

    handler: TurnHandler
    bounds: SessionBounds
    body_bounds: BodyBounds

    def memory_changed(self, by: int) -> None:
        """The memory of a session has grown by `by` bytes."""

    def session_ended(self, session: Session, code: int) -> None:
        """A session has ended."""

    def turn_ended(self, session: Session, result: str, transport: Sequence[tuple[str, str]]) -> None:
        """A turn has ended: `answered`, `refused`, `warm_up` or `left`. `transport`: see `TurnTransport.results`."""


class CloseReason(NamedTuple):
    """Why a WebSocket ends as soon as no turn runs. `error` is sent to the client before the close frame."""

    code: int
    reason: str
    error: GatewayError | None = None


class Session:
    """The session of one WebSocket.

    `scope` is that of its upgrade, as turns get it. `upstreams` are its WebSockets to upstreams.

    State that changes: the running turns by lane, and the waiting messages; the memory; the close reason; since when no
    turn runs; how many turns there were.
    """

    __slots__ = (
        "_close_reason", "_invalid_messages", "_lanes", "_queued", "_queued_bytes", "_steering", "_unread", "_worker",
        "connection", "idle_since_s", "key_id", "memory", "opened_s", "running", "scope", "socket_id", "turns",
        "upstreams", "watches",
    )  # fmt: skip

    def __init__(
        self, worker: Worker, connection: WebSocketConnection, scope: Scope, socket_id: str, key_id: str
    ) -> None:
        self.connection = connection
        self.scope = scope
        self.socket_id = socket_id
        self.key_id = key_id
        self.memory = LaneMemory(worker.memory_changed)
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
        self._invalid_messages = 0
        self._unread: deque[bytes] = deque()
        self._close_reason: CloseReason | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a turn runs."""
        return bool(self._lanes)

    def end(self, ending: CloseReason) -> None:
        """Ends the session as soon as no turn runs. Waiting turns do not begin any more."""
        if self._close_reason is None:
            self._close_reason = ending
        if not self._lanes:
            self._end_now()

    def tick(self, now_s: float) -> None:
        """Checks the bounds on time. To be called about once a second."""
        self.connection.tick(now_s)
        self.upstreams.tick(now_s)
        bounds = self._worker.bounds
        if self._close_reason is not None:
            return
        if now_s - self.opened_s >= bounds.max_age_s:
            minutes = bounds.max_age_s / 60
            limit = GatewayError(
                "websocket_connection_limit_reached",
                f"This connection has reached its limit of {minutes:g} minutes. Open another one to go on.",
            )
            self.end(CloseReason(CloseCode.GOING_AWAY, "The connection has reached its age.", limit))
        elif not self._lanes and now_s - self.idle_since_s >= bounds.idle_s:
            self.end(CloseReason(CloseCode.GOING_AWAY, "No turn came for a long time."))

    # for the connection

    def on_message(self, text: bytes) -> None:
        """See `websocket_connection.Listener`."""
        if not self._unread and len(text) <= LONG_BYTES:
            self._handle(_read(text, self._worker.body_bounds))
            return
        self._unread.append(text)
        if len(self._unread) == 1:
            self.connection.pause_receiving()
            self.connection.spawn(self._read_long())

    async def _read_long(self) -> None:
        """Reads large messages off the event loop, in order with those behind them. No more are received meanwhile."""
        try:
            while self._unread:
                text = self._unread[0]
                off_loop, bounds = self._worker.handler.snapshot.off_loop, self._worker.body_bounds
                if len(text) <= LONG_BYTES:
                    found: Message | GatewayError = _read(text, bounds)
                elif await off_loop.run(partial(is_utf8, text)):
                    found = await off_loop.run(partial(_read, text, bounds))
                else:
                    self.connection.refuse_encoding()
                    return
                self._unread.popleft()
                self._handle(found)
        finally:
            self._unread.clear()
            self.connection.resume_receiving()

    def _handle(self, message: Message | GatewayError) -> None:
        if self._close_reason is not None:
            return
        if isinstance(message, GatewayError):
            self._invalid_messages += 1
            self.connection.send([gateway_error_message(message, "")])
            if self._invalid_messages >= MAX_INVALID_MESSAGES:
                self.connection.close(CloseCode.POLICY_VIOLATION, "Too many messages that are none.")
            return
        self._invalid_messages = 0
        if message.kind == CREATE:
            self._begin_or_queue(message)
        elif message.kind == STEER:
            self._steering.steer(message)

    def on_close(self, code: int) -> None:
        """See `websocket_connection.Listener`."""
        if self._close_reason is None:
            self._close_reason = CloseReason(code, "")
        self.memory.clear()
        self.upstreams.end()
        for queue in self._lanes.values():
            queue.clear()
        watches, self.watches = self.watches, set()
        for watch in watches:
            watch.on_leave()
        self._worker.session_ended(self, code)

    def on_shutdown(self) -> None:
        """See `websocket_connection.Listener`."""
        self.end(CloseReason(CloseCode.SERVICE_RESTART, "This gateway is stopping. Connect again."))

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
        """Runs the turns of one lane, until none waits."""
        lane = message.lane
        try:
            await self._run_turn(message)
            while queue and self._close_reason is None:
                message = queue.popleft()
                self._queued -= 1
                self._queued_bytes -= len(message.text)
                await self._run_turn(message)
        except Exception as error:  # noqa: BLE001 - a bug ends the turns of this lane, but not those of other lanes
            structlog.get_logger("gateway.websocket").error("turn_crashed", exc_info=error)
        finally:
            self._queued -= len(queue)
            self._queued_bytes -= sum(len(waiting.text) for waiting in queue)
            del self._lanes[lane]
            self.idle_since_s = self.connection.loop.time()
            if self._close_reason is not None and not self._lanes:
                self._end_now()

    async def _run_turn(self, message: Message) -> None:
        self.running[message.lane] = turn = SocketTurn(self, message, self._worker.handler)
        self.turns += 1
        try:
            result = await turn.run()
        finally:
            del self.running[message.lane]
        self._on_turn_end(turn, result)
        await self._steering.finish(message.lane)

    def successor_ended(self, turn: SocketTurn, result: str) -> None:
        """See `steering.SteerableSocket`."""
        self.turns += 1
        self._on_turn_end(turn, result)

    def _on_turn_end(self, turn: SocketTurn, result: str) -> None:
        self._worker.turn_ended(self, result, () if turn.transport is None else turn.transport.results)
        if turn.is_unauthorized:
            self.end(CloseReason(CloseCode.POLICY_VIOLATION, "The key is not valid any more."))
        elif self.memory.size > self._worker.bounds.max_memory_bytes:
            self.end(CloseReason(CloseCode.SERVICE_RESTART, "The responses are too large to remember. Connect again."))

    def _end_now(self) -> None:
        ending = self._close_reason
        if ending is None or not self.connection.is_open:
            return
        if ending.error is not None:
            self.connection.send([gateway_error_message(ending.error, "")])
        self.connection.close(ending.code, ending.reason)


def _read(text: bytes, bounds: BodyBounds) -> Message | GatewayError:
    """Returns a message, or the error of an invalid one. May run in any thread."""
    try:
        return read_message(text, bounds)
    except GatewayError as error:
        return error
