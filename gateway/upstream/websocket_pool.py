"""The WebSocket connections to one upstream, and which of them a turn takes.

Each WebSocket of a client (a session) has upstream connections of its own, per upstream and key, which its turns share.
A provider remembers responses that nobody stores only on the connection on which it made them.

| a turn                                                  | is sent                                                |
|---------------------------------------------------------|--------------------------------------------------------|
| continues a response of an open connection              | over that connection, in the short form of its client  |
| continues a response whose connection is gone or busy   | over any connection, with its whole input              |
| any other turn                                          | over a free connection, or else a new one              |
| has `MAX_MESSAGE_BYTES` or more                         | by POST                                                |
| exceeds `max_connections` of its key                    | by POST                                                |
| the upstream refuses the upgrade (404, 405, 426, ...)   | by POST, and so are others for `POST_AFTER_REFUSAL_S`  |
| the upstream does not answer the upgrade                | by POST, and so are others for `POST_AFTER_FAULT_S`    |
| the upstream answers the upgrade with 401, 402, 429 or  | not at all, because that is the answer                 |
| 5xx                                                     |                                                        |

A connection that was closed between two turns is replaced. So is one that dies so soon after a turn was written on it
that no server can have worked on the turn (`Connector.may_replay`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final, NamedTuple

from gateway.concurrency.off_loop import LONG_BYTES, OffLoop
from gateway.protocol.lenient_json import dumps
from gateway.types import Body, Headers
from gateway.upstream.buffered_answer import BufferedAnswer
from gateway.upstream.connector import Connector
from gateway.upstream.request_head import RequestHeads
from gateway.upstream.transport import Answer, Progress, TransportConfig, UpstreamFault
from gateway.upstream.websocket import UpstreamSocket
from gateway.upstream.websocket_messages import CONNECTION_TOO_OLD, NO_CHANGES, PREVIOUS_NOT_FOUND, turn_message
from gateway.upstream.websocket_turn import UpstreamTurn
from gateway.upstream.websocket_upgrade import UpgradeRefused, with_upgrade

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""A longer turn is sent by POST, because providers accept no longer messages."""
POST_AFTER_REFUSAL_S: Final = 300.0
POST_AFTER_FAULT_S: Final = 30.0
_REFUSED_KEY: Final = frozenset({401, 402, 429})
_NOT_OFFERED: Final = 501
_SERVER_ERROR: Final = 500
_METHOD: Final = b"POST"
_BODY_HEADERS: Final = frozenset({b"content-type", b"accept-encoding"})


class ContinuedResponse(NamedTuple):
    """The response that a turn continues, and the new input alone as JSON, in the short form of the client."""

    response_id: str
    input: bytes


class _TurnRequest(NamedTuple):
    """A turn to send. `short_message`: its short form, for a connection on which its response is remembered."""

    target: bytes
    headers: Headers
    body: Body
    short_message: bytes | None


class _SentTurn(NamedTuple):
    """A turn that has been sent."""

    socket: UpstreamSocket
    turn: UpstreamTurn
    written_s: float
    is_new: bool
    is_short: bool


class SessionSockets:
    """The upstream connections of one client's WebSocket. State that changes: the connections, and `has_ended`."""

    def __init__(self) -> None:
        self.has_ended = False
        self._sockets: dict[tuple[UpstreamSockets, str], list[UpstreamSocket]] = {}
        self._locks: dict[tuple[UpstreamSockets, str], asyncio.Lock] = {}

    def sockets_to(self, pool: UpstreamSockets, fingerprint: str) -> list[UpstreamSocket]:
        """Returns the connections to one upstream with one key."""
        return self._sockets.setdefault((pool, fingerprint), [])

    def lock(self, pool: UpstreamSockets, fingerprint: str) -> asyncio.Lock:
        """Returns the lock for opening a connection, so that turns that begin together share one connection."""
        return self._locks.setdefault((pool, fingerprint), asyncio.Lock())

    def __iter__(self) -> Iterator[UpstreamSocket]:
        return iter([socket for sockets in self._sockets.values() for socket in sockets])

    def tick(self, now_s: float) -> None:
        """See `UpstreamSocket.tick`."""
        for socket in self:
            socket.tick(now_s)

    def remove(self, socket: UpstreamSocket) -> None:
        """Removes a closed connection."""
        for at, sockets in list(self._sockets.items()):
            if socket in sockets:
                sockets.remove(socket)
                if not sockets:
                    del self._sockets[at]
                    self._locks.pop(at, None)

    def end(self) -> None:
        """Ends the session. A turn that is still read to its end keeps its connection until then."""
        self.has_ended = True
        for socket in self:
            socket.retire()


class TurnTransport:
    """Sends one turn over the connections of its session.

    State that changes: `socket` and `turn`, the connection that it took and the turn on it; `results`, the upstreams
    that it was sent to over a connection, each with the status or the fault.
    """

    __slots__ = ("continued", "lane", "off_loop", "results", "session", "socket", "turn")

    def __init__(
        self, session: SessionSockets, lane: str, off_loop: OffLoop, continued: ContinuedResponse | None = None
    ) -> None:
        self.session = session
        self.lane = lane
        self.off_loop = off_loop
        self.continued = continued
        self.socket: UpstreamSocket | None = None
        self.turn: UpstreamTurn | None = None
        self.results: list[tuple[str, str]] = []

    def prefers(self, pool: UpstreamSockets | None, fingerprint: str) -> bool:
        """Whether a connection of this key remembers the response that the turn continues."""
        continued = self.continued
        if pool is None or continued is None:
            return False
        return any(socket.remembers(continued.response_id) for socket in self.session.sockets_to(pool, fingerprint))

    async def send(
        self,
        pool: UpstreamSockets | None,
        fingerprint: str,
        target: bytes,
        headers: Headers,
        body: Body,
        progress: Progress | None,
    ) -> Answer | None:
        """Sends the turn, and returns its answer. None: the turn must be sent by POST. Raises UpstreamFault."""
        self.socket = self.turn = None  # they may belong to an upstream that was tried before
        if pool is None:
            return None
        return await pool.send(self, fingerprint, target, headers, body, progress)


class UpstreamSockets:
    """All WebSocket connections to one upstream.

    State that changes: the connections, their number per key, and until when turns are sent by POST.
    """

    def __init__(self, config: TransportConfig, max_message_bytes: int) -> None:
        self.config = config
        self._max_message_bytes = max_message_bytes
        self._connector = Connector(config, ["http/1.1"], tunnels=True)
        self._heads = RequestHeads(self._connector.origin)
        self._sockets: dict[UpstreamSocket, SessionSockets] = {}
        self._by_key: Counter[str] = Counter()
        self._post_until_s = 0.0
        self._closed = False

    def __len__(self) -> int:
        """The number of connections."""
        return len(self._sockets)

    def __bool__(self) -> bool:
        return True

    @property
    def idle(self) -> int:
        """The number of connections without a running turn."""
        return sum(not socket.turns for socket in self._sockets)

    def close(self) -> None:
        """Closes all connections. Their turns end as if the connection had died. Idempotent."""
        self._closed = True
        for socket in list(self._sockets):
            socket.close()

    async def send(
        self,
        transport: TurnTransport,
        fingerprint: str,
        target: bytes,
        headers: Headers,
        body: Body,
        progress: Progress | None,
    ) -> Answer | None:
        """See `TurnTransport.send`."""
        short_message, fresh = await self._short_message(transport, fingerprint, body), False
        while True:
            sent = await self._send_once(
                transport, fingerprint, _TurnRequest(target, headers, body, short_message), fresh=fresh
            )
            if not isinstance(sent, _SentTurn):
                return sent
            turn, continued = sent.turn, transport.continued
            if progress is not None:
                progress.sent = True
            try:
                await turn.wait_until_begun(self.config.first_byte_timeout_s)
            except asyncio.CancelledError:
                turn.answer.abort()
                raise
            if (fault := turn.answer.fault) is not None and not turn.answer.status:
                if sent.is_new or turn.has_begun or not self._connector.may_replay(_METHOD, fault, sent.written_s):
                    raise fault
                fresh = True
            elif turn.error_code == PREVIOUS_NOT_FOUND and sent.is_short and continued is not None:
                sent.socket.forget(continued.response_id)
                short_message = None
            elif turn.error_code == CONNECTION_TOO_OLD and not sent.is_new:
                sent.socket.retire()
                fresh = True
            else:
                return turn.answer

    async def _send_once(
        self, transport: TurnTransport, fingerprint: str, request: _TurnRequest, *, fresh: bool
    ) -> _SentTurn | Answer | None:
        """Sends the turn on a connection. Otherwise returns the result of `_open`."""
        async with transport.session.lock(self, fingerprint):
            socket = None if fresh else self._find_free(transport, fingerprint, request.short_message)
            continued, message, is_new = transport.continued, request.short_message, False
            if socket is None or message is None or continued is None or not socket.remembers(continued.response_id):
                message = await _build_message(transport, request.body)
            is_short = message is request.short_message
            if len(message) >= MAX_MESSAGE_BYTES:
                return None
            if socket is None or not socket.can_take(transport.lane, asyncio.get_running_loop().time()):
                opened = await self._open(transport, fingerprint, request)
                if not isinstance(opened, UpstreamSocket):
                    return opened
                socket, is_new = opened, True
            turn, written_s = socket.begin(transport.lane, message), time.monotonic()
        transport.socket, transport.turn = socket, turn
        if transport.session.has_ended:
            socket.retire()
        return _SentTurn(socket, turn, written_s, is_new, is_short)

    def socket_lost(self, socket: UpstreamSocket) -> None:
        """See `websocket.SocketOwner`."""
        session = self._sockets.pop(socket, None)
        if session is None:
            return
        session.remove(socket)
        self._by_key[socket.fingerprint] -= 1
        if not self._by_key[socket.fingerprint]:
            del self._by_key[socket.fingerprint]

    async def _short_message(self, transport: TurnTransport, fingerprint: str, body: Body) -> bytes | None:
        """Returns the short form of the turn, if a connection remembers the response that it continues."""
        continued = transport.continued
        if continued is None or not transport.prefers(self, fingerprint):
            return None
        return await _build_message(
            transport, body, {"previous_response_id": dumps(continued.response_id), "input": continued.input}
        )

    def _find_free(
        self, transport: TurnTransport, fingerprint: str, short_message: bytes | None
    ) -> UpstreamSocket | None:
        """Returns a connection that the turn can take, preferably the one that remembers the continued response."""
        now_s, continued = asyncio.get_running_loop().time(), transport.continued
        free = [one for one in transport.session.sockets_to(self, fingerprint) if one.can_take(transport.lane, now_s)]
        if short_message is not None and continued is not None:
            return next((one for one in free if one.remembers(continued.response_id)), free[0] if free else None)
        return free[0] if free else None

    async def _open(
        self, transport: TurnTransport, fingerprint: str, request: _TurnRequest
    ) -> UpstreamSocket | Answer | None:
        """Opens a connection. Returns it, or the upstream's refusal, or None if the turn must be sent by POST.

        Raises UpstreamFault.
        """
        if self._closed or time.monotonic() < self._post_until_s:
            return None
        if self._by_key[fingerprint] >= self.config.max_connections:
            return None
        sent = [field for field in request.headers if field[0] not in _BODY_HEADERS]
        head = self._heads.build(b"GET", request.target, sent, 0)  # raises ValueError for headers that must not be sent
        socket = UpstreamSocket(self, self.config, self._max_message_bytes, fingerprint, transport.off_loop)
        self._sockets[socket] = transport.session
        self._by_key[fingerprint] += 1
        transport.session.sockets_to(self, fingerprint).append(socket)
        is_connected = False
        try:
            await self._connector.open(lambda: socket)
            is_connected = True
            await socket.handshake(partial(with_upgrade, head))
        except UpgradeRefused as refused:
            socket.abort()
            is_an_answer = refused.status >= _SERVER_ERROR and refused.status != _NOT_OFFERED
            if is_an_answer or refused.status in _REFUSED_KEY:
                return BufferedAnswer(refused.status, refused.headers, refused.body)
            self._post_until_s = time.monotonic() + POST_AFTER_REFUSAL_S
            return None
        except UpstreamFault:
            socket.abort()
            if not is_connected:
                raise
            self._post_until_s = time.monotonic() + POST_AFTER_FAULT_S
            return None
        except BaseException:
            socket.abort()
            raise
        return socket


async def _build_message(
    transport: TurnTransport, body: Body, changes: Mapping[str, bytes | None] = NO_CHANGES
) -> bytes:
    work = partial(turn_message, body, transport.lane, changes)
    return await transport.off_loop.run(work) if len(body) > LONG_BYTES else work()
