"""The WebSocket connections to one upstream, and which of them a turn takes.

A client's socket has connections of its own, by upstream and key, and its turns share them: what a provider remembers
of a response that nobody stores, it remembers of one connection.

| a turn                                                        | goes                                             |
|---------------------------------------------------------------|--------------------------------------------------|
| from a response that an open connection has made              | there, as its client wrote it                    |
| the same, where that one is gone or busy                      | anywhere, with its whole input                   |
| any other                                                     | over a connection that is free, or else a new one|
| of `MOST_BYTES` or more                                       | by POST                                          |
| beyond `max_connections` of a key                             | by POST                                          |
| to an upstream that refused the upgrade (404, 405, 426, ...), | by POST, for `REFUSED_S`; for `BROKEN_S` where it|
| or did not answer it                                          | gave no answer at all                            |
| to an upstream that refused the key, or is not there (401,    | nowhere: it is the answer, as by POST            |
| 402, 429, 5xx)                                                |                                                  |

A connection that was closed between two turns is replaced: nothing was sent. One that dies right after a turn was
written on it, so soon that no server can have worked on it, is replaced too (`Connector.may_replay`).
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
from gateway.upstream.websocket import Refused, UpstreamSocket
from gateway.upstream.websocket_messages import NO_CHANGES, NOT_KNOWN, TOO_OLD, turn_message
from gateway.upstream.websocket_turn import UpstreamTurn

MOST_BYTES: Final = 16 * 1024 * 1024
"""A message of this length goes by POST: providers take none that is longer."""
REFUSED_S: Final = 300.0
BROKEN_S: Final = 30.0
_REFUSED_KEY: Final = frozenset({401, 402, 429})
_NOT_OFFERED: Final = 501
_SERVER_ERROR: Final = 500
_METHOD: Final = b"POST"
_OF_A_BODY: Final = frozenset({b"content-type", b"accept-encoding"})


class Continued(NamedTuple):
    """What a turn goes on from, as its client wrote it: the response, and the new input alone, as JSON."""

    response_id: str
    input: bytes


class _Asked(NamedTuple):
    """A turn as it is asked. `short`: as its client wrote it, for a connection that remembers what it goes on from."""

    target: bytes
    headers: Headers
    body: Body
    short: bytes | None


class _Begun(NamedTuple):
    """A turn that has been sent."""

    socket: UpstreamSocket
    turn: UpstreamTurn
    written_s: float
    is_new: bool
    is_short: bool


class SessionSockets:
    """The connections of one client's socket. State that changes: they; that it has ended."""

    def __init__(self) -> None:
        self.has_ended = False
        self._sockets: dict[tuple[UpstreamSockets, str], list[UpstreamSocket]] = {}
        self._locks: dict[tuple[UpstreamSockets, str], asyncio.Lock] = {}

    def of(self, pool: UpstreamSockets, fingerprint: str) -> list[UpstreamSocket]:
        """Those to one upstream with one key."""
        return self._sockets.setdefault((pool, fingerprint), [])

    def lock(self, pool: UpstreamSockets, fingerprint: str) -> asyncio.Lock:
        """Whoever has it may open one: turns that begin together share it."""
        return self._locks.setdefault((pool, fingerprint), asyncio.Lock())

    def __iter__(self) -> Iterator[UpstreamSocket]:
        return iter([socket for sockets in self._sockets.values() for socket in sockets])

    def tick(self, now_s: float) -> None:
        """About once a second: what is due."""
        for socket in self:
            socket.tick(now_s)

    def remove(self, socket: UpstreamSocket) -> None:
        """It is closed."""
        for at, sockets in list(self._sockets.items()):
            if socket in sockets:
                sockets.remove(socket)
                if not sockets:
                    del self._sockets[at]
                    self._locks.pop(at, None)

    def end(self) -> None:
        """The client's socket is closed. A turn that is still read to its end keeps its connection until then."""
        self.has_ended = True
        for socket in self:
            socket.retire()


class TurnTransport:
    """One turn's way over its session's connections.

    State that changes: the connection that it took, and its turn; `results`, the upstreams that it was sent to over a
    connection, with what came of it: the status, or the fault.
    """

    __slots__ = ("continued", "lane", "off_loop", "results", "session", "socket", "turn")

    def __init__(
        self, session: SessionSockets, lane: str, off_loop: OffLoop, continued: Continued | None = None
    ) -> None:
        self.session = session
        self.lane = lane
        self.off_loop = off_loop
        self.continued = continued
        self.socket: UpstreamSocket | None = None
        self.turn: UpstreamTurn | None = None
        self.results: list[tuple[str, str]] = []

    def prefers(self, pool: UpstreamSockets | None, fingerprint: str) -> bool:
        """Whether this key of this upstream has made what the turn goes on from."""
        continued = self.continued
        if pool is None or continued is None:
            return False
        return any(socket.made(continued.response_id) for socket in self.session.of(pool, fingerprint))

    async def ask(
        self,
        pool: UpstreamSockets | None,
        fingerprint: str,
        target: bytes,
        headers: Headers,
        body: Body,
        progress: Progress | None,
    ) -> Answer | None:
        """The turn's answer; None: it is to be asked by POST. Raises UpstreamFault."""
        self.socket = self.turn = None  # of an upstream that was asked before
        if pool is None:
            return None
        return await pool.ask(self, fingerprint, target, headers, body, progress)


class UpstreamSockets:
    """All connections to one upstream. State that changes: they, how many each key has; until when it is not asked."""

    def __init__(self, config: TransportConfig, max_message_bytes: int) -> None:
        self.config = config
        self._max_message_bytes = max_message_bytes
        self._connector = Connector(config, ["http/1.1"], tunnels=True)
        self._heads = RequestHeads(self._connector.origin)
        self._sockets: dict[UpstreamSocket, SessionSockets] = {}
        self._by_key: Counter[str] = Counter()
        self._asked_by_post_until_s = 0.0
        self._closed = False

    def __len__(self) -> int:
        """How many there are."""
        return len(self._sockets)

    def __bool__(self) -> bool:
        return True

    @property
    def idle(self) -> int:
        """On how many no turn runs."""
        return sum(not socket.turns for socket in self._sockets)

    def close(self) -> None:
        """Closes them all; their turns end as if the connection had died. Idempotent."""
        self._closed = True
        for socket in list(self._sockets):
            socket.close()

    async def ask(
        self,
        transport: TurnTransport,
        fingerprint: str,
        target: bytes,
        headers: Headers,
        body: Body,
        progress: Progress | None,
    ) -> Answer | None:
        """See `TurnTransport.ask`."""
        short, fresh = await self._short(transport, fingerprint, body), False
        while True:
            begun = await self._begin(transport, fingerprint, _Asked(target, headers, body, short), fresh=fresh)
            if not isinstance(begun, _Begun):
                return begun
            turn, continued = begun.turn, transport.continued
            if progress is not None:
                progress.sent = True
            try:
                await turn.wait_until_begun(self.config.first_byte_timeout_s)
            except asyncio.CancelledError:
                turn.answer.abort()
                raise
            if (fault := turn.answer.fault) is not None and not turn.answer.status:
                if begun.is_new or turn.begun or not self._connector.may_replay(_METHOD, fault, begun.written_s):
                    raise fault
                fresh = True
            elif turn.error_code == NOT_KNOWN and begun.is_short and continued is not None:
                begun.socket.forget(continued.response_id)
                short = None
            elif turn.error_code == TOO_OLD and not begun.is_new:
                begun.socket.retire()
                fresh = True
            else:
                return turn.answer

    async def _begin(
        self, transport: TurnTransport, fingerprint: str, asked: _Asked, *, fresh: bool
    ) -> _Begun | Answer | None:
        """Begins the turn on a connection; otherwise as `_open`."""
        async with transport.session.lock(self, fingerprint):
            socket = None if fresh else self._free(transport, fingerprint, asked.short)
            continued, message, is_new = transport.continued, asked.short, False
            if socket is None or message is None or continued is None or not socket.made(continued.response_id):
                message = await _message(transport, asked.body)
            is_short = message is asked.short
            if len(message) >= MOST_BYTES:
                return None
            if socket is None or not socket.can_take(transport.lane, asyncio.get_running_loop().time()):
                opened = await self._open(transport, fingerprint, asked)
                if not isinstance(opened, UpstreamSocket):
                    return opened
                socket, is_new = opened, True
            turn, written_s = socket.begin(transport.lane, message), time.monotonic()
        transport.socket, transport.turn = socket, turn
        if transport.session.has_ended:
            socket.retire()
        return _Begun(socket, turn, written_s, is_new, is_short)

    def socket_lost(self, socket: UpstreamSocket) -> None:
        """See `websocket.SocketOwner`."""
        session = self._sockets.pop(socket, None)
        if session is None:
            return
        session.remove(socket)
        self._by_key[socket.fingerprint] -= 1
        if not self._by_key[socket.fingerprint]:
            del self._by_key[socket.fingerprint]

    async def _short(self, transport: TurnTransport, fingerprint: str, body: Body) -> bytes | None:
        """The message as its client wrote it, where a connection remembers what it goes on from."""
        continued = transport.continued
        if continued is None or not transport.prefers(self, fingerprint):
            return None
        return await _message(
            transport, body, {"previous_response_id": dumps(continued.response_id), "input": continued.input}
        )

    def _free(self, transport: TurnTransport, fingerprint: str, short: bytes | None) -> UpstreamSocket | None:
        """A connection that the turn can take; the one that has made what it goes on from, if that is one."""
        now_s, continued = asyncio.get_running_loop().time(), transport.continued
        free = [one for one in transport.session.of(self, fingerprint) if one.can_take(transport.lane, now_s)]
        if short is not None and continued is not None:
            return next((one for one in free if one.made(continued.response_id)), free[0] if free else None)
        return free[0] if free else None

    async def _open(self, transport: TurnTransport, fingerprint: str, asked: _Asked) -> UpstreamSocket | Answer | None:
        """A new connection; or the upstream's refusal; None: it is to be asked by POST. Raises UpstreamFault."""
        if self._closed or time.monotonic() < self._asked_by_post_until_s:
            return None
        if self._by_key[fingerprint] >= self.config.max_connections:
            return None
        sent = [field for field in asked.headers if field[0] not in _OF_A_BODY]
        head = self._heads.build(b"GET", asked.target, sent, 0)  # ValueError for what must not be sent
        socket = UpstreamSocket(self, self.config, self._max_message_bytes, fingerprint)
        self._sockets[socket] = transport.session
        self._by_key[fingerprint] += 1
        transport.session.of(self, fingerprint).append(socket)
        is_connected = False
        try:
            await self._connector.open(lambda: socket)
            is_connected = True
            await socket.shake_hands(partial(_with_upgrade, head))
        except Refused as refused:
            socket.abort()
            is_an_answer = refused.status >= _SERVER_ERROR and refused.status != _NOT_OFFERED
            if is_an_answer or refused.status in _REFUSED_KEY:
                return BufferedAnswer(refused.status, refused.headers, refused.body)
            self._asked_by_post_until_s = time.monotonic() + REFUSED_S
            return None
        except UpstreamFault:
            socket.abort()
            if not is_connected:
                raise
            self._asked_by_post_until_s = time.monotonic() + BROKEN_S
            return None
        except BaseException:
            socket.abort()
            raise
        return socket


async def _message(transport: TurnTransport, body: Body, changes: Mapping[str, bytes | None] = NO_CHANGES) -> bytes:
    work = partial(turn_message, body, transport.lane, changes)
    return await transport.off_loop.run(work) if len(body) > LONG_BYTES else work()


def _with_upgrade(head: bytes, key: str) -> bytes:
    """A request's head as the opening handshake (RFC 6455, 4.1)."""
    return (
        head.removesuffix(b"\r\n")
        + b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: "
        + key.encode()
        + b"\r\n\r\n"
    )
