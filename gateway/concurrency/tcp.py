"""TCP options of sockets."""

from __future__ import annotations

import socket
from typing import Final

_IDLE_BEFORE_PROBES_S: Final = 60
_PROBE_INTERVAL_S: Final = 15
_PROBES: Final = 4


def keep_alive(sock: socket.socket) -> None:
    """Enables TCP keep-alive: a silent connection is probed after a minute, then four times, 15 s apart.

    A firewall or NAT that has forgotten a connection drops its packets, and without probes both sides would wait for
    ever. The connections that a listening socket accepts inherit the option.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _IDLE_BEFORE_PROBES_S),
        ("TCP_KEEPINTVL", _PROBE_INTERVAL_S),
        ("TCP_KEEPCNT", _PROBES),
    ):
        option = getattr(socket, name, None)  # not every system has them all
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
