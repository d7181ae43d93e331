"""Tells a client that has ended its side from one that has left: both send the same FIN.

Only what is sent to them tells them apart: who has left answers with a reset. So an interim answer goes out, which
every HTTP/1.1 client has to skip (RFC 9110, 15.2; Python's http.client skips no other than 100).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from gateway.http.request_cycle import CONTINUE, RequestCycle

_PATIENCE_S: Final = 0.02  # an answer that comes so soon needs no question
_LOOKS_S: Final = (0.005, 0.05, 0.5, 2.0)  # apart: a reset takes one round trip, and one more behind a relay of bytes


class HalfClosedProbe:
    """Asks a few times, until the answer has begun. State that changes: how often it has asked; its timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, cycle: RequestCycle) -> None:
        self._loop = loop
        self._transport = transport
        self._cycle = cycle
        self._probeed = 0
        self._timer = loop.call_later(_PATIENCE_S, self._probe)

    def close(self) -> None:
        """Asks no more. Idempotent."""
        self._timer.cancel()

    def _probe(self) -> None:
        """Nobody reads the socket after its end, so nothing tells of a reset but the socket's error."""
        if self._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
        elif self._probeed < len(_LOOKS_S) and not self._cycle.started:
            self._transport.write(CONTINUE)
            self._timer = self._loop.call_later(_LOOKS_S[self._probeed], self._probe)
            self._probeed += 1
