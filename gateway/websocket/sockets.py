"""All sockets of a worker: which there are, what they may take together, what is due, and their end.

    sockets.admit(key_id)           makes room for one more of a key, or raises GatewayError `too_many_sockets`
    sockets.open(...)               a socket whose handshake is answered
    sockets.tend()                  once a second: pings, ages, idle sockets, slow readers
    sockets.drain()                 no more are opened; each is closed as soon as no turn of it runs

What sockets remember of responses is bounded for the worker: beyond it, those that were used least lately are closed
between two turns with 1012, so that their clients connect again and send their past anew.
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
from gateway.websocket.session import Ending, Session, SessionBounds
from gateway.websocket.turn import TurnHandler

TEND_S: Final = 1.0
"""How often `Sockets.tend` is due."""
_RESTART: Final = Ending(CloseCode.SERVICE_RESTART, "This gateway is stopping. Connect again.")
_NO_ROOM: Final = Ending(CloseCode.SERVICE_RESTART, "There is no room to remember responses. Connect again.")
_WAIT_MS: Final = 1000


class SocketPolicy(NamedTuple):
    """Whether sockets are served, and within which bounds. `max_memory_bytes`: of all that this worker remembers."""

    enabled: bool
    max_per_key: int
    max_memory_bytes: int
    message: WebSocketOptions
    socket: SocketBounds
    session: SessionBounds


class Sockets:
    """One worker's. State that changes: the sockets, and how many of each key there are; what they remember; counts."""

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
        """How many are open."""
        return len(self._sessions)

    @property
    def busy(self) -> int:
        """In how many a turn runs."""
        return sum(session.is_busy for session in self._sessions)

    def sessions(self) -> list[Session]:
        """Those that are open."""
        return list(self._sessions)

    def admit(self, key_id: str) -> None:
        """Counts one more of this key, until it is closed or `give_back`. Raises GatewayError `too_many_sockets`."""
        most = self.policy.max_per_key
        if self._by_key[key_id] >= most:
            raise GatewayError(
                "too_many_sockets",
                f"This key has {most} connections open here already.",
                wait_ms=_WAIT_MS,
                explain={"limit": most, "scope": "key", "limit_source": "gateway"},
            )
        self._by_key[key_id] += 1

    def give_back(self, key_id: str) -> None:
        """One that was counted is gone."""
        self._by_key[key_id] -= 1
        if not self._by_key[key_id]:
            del self._by_key[key_id]

    def open(self, connection: WebSocketConnection, scope: Scope, socket_id: str, key_id: str) -> Session:
        """A socket whose key `admit` has counted."""
        session = Session(self, connection, scope, socket_id, key_id)
        self._sessions.add(session)
        return session

    async def tend(self) -> None:
        """What is due."""
        for session in list(self._sessions):
            session.tick(session.connection.loop.time())

    def drain(self) -> None:
        """The worker stops: idle sockets at once, others with their turn."""
        self.stopping = True
        for session in list(self._sessions):
            session.end(_RESTART)

    # for the sessions

    def remembered(self, by: int) -> None:
        """See `session.Worker`."""
        self.memory_bytes += by

    def turn_ended(self, session: Session, result: str, transport: Sequence[tuple[str, str]]) -> None:
        """See `session.Worker`. What it remembers may be too much for the worker."""
        del session
        self.turns[result] += 1
        self.upstream_turns.update(transport)
        if self.memory_bytes > self.policy.max_memory_bytes:
            self._make_room()

    def has_ended(self, session: Session, code: int) -> None:
        """See `session.Worker`."""
        self._sessions.discard(session)
        self.closed[code] += 1
        self.give_back(session.key_id)
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
        """Closes the sockets that were used least lately. One with a turn is closed when that has ended."""
        target = self.policy.max_memory_bytes
        holding = [session for session in self._sessions if session.memory.size]
        for session in sorted(holding, key=lambda held: (held.is_busy, held.idle_since_s)):
            if self.memory_bytes <= target:
                return
            target += session.memory.size if session.is_busy else 0  # it is on its way
            session.end(_NO_ROOM)
