"""TCP connections by Happy Eyeballs (RFC 8305): the next address is tried when the last one failed, or after 250 ms.

uvloop's `create_connection` has no `happy_eyeballs_delay`. It tries addresses one after another, so that an unreachable
IPv6 route would use up the whole connect timeout.
"""

import asyncio
import socket
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

from gateway.concurrency.tcp import keep_alive

ATTEMPT_DELAY_S = 0.25  # RFC 8305, section 8
AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]


async def dial(host: str, port: int) -> socket.socket:
    """Return a connected, non-blocking socket with TCP_NODELAY and SO_KEEPALIVE.

    Raises:
        OSError: no address could be reached (the first attempt's error), or the name is unknown.
    """
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    if len(infos) == 1:
        return await _attempt(infos[0])
    return await race(interleave(infos))


def interleave(infos: Sequence[AddressInfo]) -> list[AddressInfo]:
    """Order addresses so that the families alternate, beginning with the resolver's first choice."""
    first = [info for info in infos if info[0] == infos[0][0]]
    other = [info for info in infos if info[0] != infos[0][0]]
    return [info for info in chain.from_iterable(zip_longest(first, other)) if info is not None]


async def race(infos: Sequence[AddressInfo]) -> socket.socket:
    """Connect to the addresses in turn, overlapping. The first connection is returned, and the others are closed.

    Raises:
        OSError: every attempt failed.
    """
    errors: list[OSError] = []
    running: set[asyncio.Task[socket.socket]] = set()
    waiting = list(reversed(infos))
    winner: socket.socket | None = None
    try:
        while winner is None and (waiting or running):
            if waiting:
                running.add(asyncio.ensure_future(_attempt(waiting.pop())))
            done, running = await asyncio.wait(
                running, timeout=ATTEMPT_DELAY_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                error = attempt.exception()
                if isinstance(error, OSError):
                    errors.append(error)
                elif error is not None:
                    raise error
                elif winner is None:
                    winner = attempt.result()
                else:
                    attempt.result().close()
    finally:
        for attempt in running:
            if not attempt.cancel():  # it finished in this turn of the event loop
                _close_result(attempt)
            else:
                attempt.add_done_callback(_close_result)
    if winner is None:
        raise errors[0]
    return winner


async def _attempt(info: AddressInfo) -> socket.socket:
    family, kind, proto, _name, address = info
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(sock)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:  # cancellation included, because nobody else can close the socket
        sock.close()
        raise
    return sock


def _close_result(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
