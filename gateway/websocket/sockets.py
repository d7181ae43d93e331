"""All WebSockets of a worker: their bounds, their maintenance, and their end.

    sockets.admit(key_id)           counts one more WebSocket of a key, or raises GatewayError `too_many_sockets`
    sockets.open(...)               begins the session of a WebSocket whose handshake was answered
    sockets.maintain()              once a second: sends pings, ends old and idle WebSockets and slow readers
    sockets.drain()                 opens no more, and closes each one as soon as none of its turns runs

The remembered responses of all WebSockets together are bounded. Beyond the bound, the least recently used WebSockets
are closed with 1012 between two turns, so that their clients connect again and send their whole input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import structlog
from websockets.frames import CloseCode

from gateway.errors import GatewayError
from gateway.http.websocket_connection import SocketBounds, WebSocketConnection
from gateway.http.websocket_handshake import WebSocketOptions
from gateway.protocol.body_bounds import BodyBounds
from gateway.types import Scope
from gateway.websocket.session import CloseReason, Session, SessionBounds
from gateway.websocket.turn import TurnHandler

MAINTAIN_S: Final = 1.0
"""The interval of `Sockets.maintain`."""
_RESTART: Final = CloseReason(CloseCode.SERVICE_RESTART, "This gateway is stopping. Connect again.")
_NO_ROOM: Final = CloseReason(CloseCode.SERVICE_RESTART, "There is no room to remember responses. Connect again.")
_WAIT_MS: Final = 1000


class SocketPolicy(NamedTuple):
    """The configuration of WebSockets. `max_memory_bytes` bounds the memory of all WebSockets of a worker together."""

    enabled: bool
    max_per_key: int
    max_memory_bytes: int
    message: WebSocketOptions
    socket: SocketBounds
    session: SessionBounds


class Sockets:
    """All WebSockets of one worker.

    State that changes: the sessions, their number per key, the size of their memory, and counts for metrics.
    """

    def __init__(self, policy: SocketPolicy, body_bounds: BodyBounds, handler: TurnHandler) -> None:
        self.policy = policy
        self.bounds = policy.session
        self.body_bounds = body_bounds
        self.handler = handler
        self.stopping = False
        self.memory_bytes = 0
        self.turns: Counter[str] = Counter()
        self.upstream_turns: Counter[tuple[str, str]] = Counter()
        self.closed: Counter[int] = Counter()
        self._sessions: set[Session] = set()
        self._by_key: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """The number of open WebSockets."""
        return len(self._sessions)

    @property
    def busy(self) -> int:
        """The number of WebSockets with a running turn."""
        return sum(session.is_busy for session in self._sessions)

    def sessions(self) -> list[Session]:
        """Returns the open sessions."""
        return list(self._sessions)

    def admit(self, key_id: str) -> None:
        """Counts one more WebSocket of a key, until it is closed or `release` is called.

        Raises GatewayError `too_many_sockets`.
        """
        max_sockets = self.policy.max_per_key
        if self._by_key[key_id] >= max_sockets:
            raise GatewayError(
                "too_many_sockets",
                f"This key has {max_sockets} connections open here already.",
                wait_ms=_WAIT_MS,
                explain={"limit": max_sockets, "scope": "key", "limit_source": "gateway"},
            )
        self._by_key[key_id] += 1

    def release(self, key_id: str) -> None:
        """Ends the count of one WebSocket of a key."""
        self._by_key[key_id] -= 1
        if not self._by_key[key_id]:
            del self._by_key[key_id]

    def open(self, connection: WebSocketConnection, scope: Scope, socket_id: str, key_id: str) -> Session:
        """Begins the session of a WebSocket that `admit` has counted."""
        session = Session(self, connection, scope, socket_id, key_id)
        self._sessions.add(session)
        return session

    async def maintain(self) -> None:
        """Calls `tick` of all sessions."""
        for session in list(self._sessions):
            session.tick(session.connection.loop.time())

    def drain(self) -> None:
        """Ends all sessions because the worker stops: idle ones at once, others after their turn."""
        self.stopping = True
        for session in list(self._sessions):
            session.end(_RESTART)

    # for the sessions

    def memory_changed(self, by: int) -> None:
        """See `session.Worker`."""
        self.memory_bytes += by

    def turn_ended(self, session: Session, result: str, transport: Sequence[tuple[str, str]]) -> None:
        """See `session.Worker`. Ends sessions if their memory exceeds the bound."""
        del session
        self.turns[result] += 1
        self.upstream_turns.update(transport)
        if self.memory_bytes > self.policy.max_memory_bytes:
            self._make_room()

    def session_ended(self, session: Session, code: int) -> None:
        """See `session.Worker`."""
        self._sessions.discard(session)
        self.closed[code] += 1
        self.release(session.key_id)
        structlog.get_logger("gateway.websocket").info(
            "websocket_closed",
            socket=session.socket_id,
            key_id=session.key_id,
            code=code,
            turns=session.turns,
            seconds=round(session.connection.loop.time() - session.opened_s, 3),
            too_slow=session.connection.too_slow,
        )

    def _make_room(self) -> None:
        """Ends the least recently used sessions with a memory. A session with a turn ends after its turn."""
        target = self.policy.max_memory_bytes
        holding = [session for session in self._sessions if session.memory.size]
        for session in sorted(holding, key=lambda held: (held.is_busy, held.idle_since_s)):
            if self.memory_bytes <= target:
                return
            target += session.memory.size if session.is_busy else 0  # it ends after its turn
            session.end(_NO_ROOM)
