"""Tells a client that has closed its sending side from one that has disconnected. Both send the same FIN.

They differ only when something is sent to them: a client that has disconnected answers with a reset. Therefore an
interim answer is sent, which every HTTP/1.1 client skips (RFC 9110, 15.2). It is 100, since Python's http.client skips
no other.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from gateway.http.request_cycle import CONTINUE, RequestCycle

_FIRST_S: Final = 0.02  # an answer that begins sooner needs no probe
_PAUSES_S: Final = (0.005, 0.05, 0.5, 2.0)  # a reset takes one round trip, or two behind a proxy for TCP


class HalfClosedProbe:
    """Sends a few probes, until the answer begins. Mutable: how many it has sent, and its timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, cycle: RequestCycle) -> None:
        self._loop = loop
        self._transport = transport
        self._cycle = cycle
        self._probes = 0
        self._timer = loop.call_later(_FIRST_S, self._probe)

    def close(self) -> None:
        """Stops probing. Idempotent."""
        self._timer.cancel()

    def _probe(self) -> None:
        """Aborts the connection after a reset, or sends the next probe.

        The socket is not read after its end, so its error is the only sign of a reset.
        """
        if self._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
        elif self._probes < len(_PAUSES_S) and not self._cycle.started:
            self._transport.write(CONTINUE)
            self._timer = self._loop.call_later(_PAUSES_S[self._probes], self._probe)
            self._probes += 1
