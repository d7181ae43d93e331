"""Plain sockets to a gateway: what a test writes is what is sent, and nothing is read that it does not read."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from tests.support.gateway import RunningGateway

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n"


def head_of(method: str, path: str, key: str, *lines: str) -> bytes:
    """The head of a request with a key."""
    first = (f"{method} {path} HTTP/1.1", "host: gateway", f"authorization: Bearer {key}")
    return "\r\n".join([*first, *lines, "", ""]).encode("latin-1")


@contextlib.contextmanager
def connected(
    gateway: RunningGateway, number: int = 1, receive_bytes: int | None = None
) -> Iterator[list[socket.socket]]:
    host, port = gateway.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(number)]
        for client in clients:
            client.settimeout(10)
            if receive_bytes is not None:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            client.connect((host, int(port)))
        yield clients


def is_open(client: socket.socket) -> bool:
    """Whether the gateway has neither ended nor answered it."""
    client.setblocking(False)
    try:
        client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        client.settimeout(10)
    return False


def read_all(client: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(65_536):
            received += data
    return received


def send_until_stuck(client: socket.socket, data: bytes, max_bytes: int) -> int:
    """Sends without reading until nothing is taken for half a second; gives how much was."""
    client.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError, ConnectionError):
        while sent < max_bytes:
            sent += client.send(data)
    return sent
