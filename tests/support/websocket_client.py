"""A client of WebSocket mode, by the `websockets` library.

with Socket(url, key) as socket:
    socket.create(model="sim/echo", input="hello")      sends a `response.create`
    socket.events()                                     the turn's events, to its last one
    socket.turn({...})                                  both: the status, and the last event
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections import deque
from contextlib import ExitStack
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.sync.client import connect
from websockets.uri import parse_uri

T = TypeVar("T")

LAST: tuple[str, ...] = ("response.completed", "response.incomplete", "response.failed", "error")
TIMEOUT_S = 20.0


class Socket:
    """One socket. `key`: sent as a Bearer header; None: `options` have it."""

    def __init__(self, url: str, key: str | None = None, **options: Any) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        headers |= options.pop("headers", {})
        target = url.replace("http", "ws", 1) if url.startswith("http") else url
        if not target.endswith("/v1/responses"):
            target += "/v1/responses"
        self._open = contextlib.ExitStack()
        self.connection = self._open.enter_context(connect(target, additional_headers=headers, proxy=None, **options))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def send(self, message: Any) -> None:
        self.connection.send(message if isinstance(message, str | bytes) else json.dumps(message))

    def create(self, **fields: Any) -> None:
        self.send({"type": "response.create", **fields})

    def receive(self, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """The next message. Raises ConnectionClosed, TimeoutError."""
        message: dict[str, Any] = json.loads(self.connection.recv(timeout=timeout_s))
        return message

    def events(self, lane: str | None = None) -> list[dict[str, Any]]:
        """The events of a turn; with `lane` those of other lanes are left out."""
        found = []
        while True:
            event = self.receive()
            if event.get("stream_id") == lane:
                found.append(event)
                if event["type"] in LAST:
                    return found

    def turn(self, fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """One turn: its status, 200 where nothing failed, and its last event."""
        self.send({"type": "response.create", **fields})
        last = self.events(fields.get("stream_id"))[-1]
        return int(last.get("status", 200)), last

    def closed(self, timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
        """Waits for the end. Returns the code and the reason of the close that came; 1006: none came."""
        try:
            while True:
                self.connection.recv(timeout=timeout_s)
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else (1006, "")


class RawWebSocket:
    """A client whose every frame a test writes and sees: what `websockets` gives, on a plain socket.

    `receive_bytes`: the size of the socket's buffer, for a client that reads little.
    """

    def __init__(self, url: str, key: str, *, receive_bytes: int | None = None, compression: bool = False) -> None:
        parts = urlsplit(url)
        self._unread: deque[Any] = deque()
        self.protocol = ClientProtocol(
            parse_uri(f"ws://{parts.netloc}/v1/responses"),
            extensions=[ClientPerMessageDeflateFactory()] if compression else None,
            max_size=None,
        )
        request = self.protocol.connect()
        request.headers["authorization"] = f"Bearer {key}"
        self.protocol.send_request(request)
        self.socket = socket.socket()
        with ExitStack() as cleanup:
            cleanup.callback(self.socket.close)
            if receive_bytes is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            self.socket.settimeout(TIMEOUT_S)
            self.socket.connect((parts.hostname, parts.port))
            self.write()
            self.response = self.next(Response)
            cleanup.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def write(self) -> None:
        """Sends what the protocol has made."""
        for data in self.protocol.data_to_send():
            self.socket.sendall(data)

    def create(self, **fields: Any) -> None:
        self.protocol.send_text(json.dumps({"type": "response.create", **fields}).encode())
        self.write()

    def next(self, kind: type[T], opcode: Opcode | None = None) -> T:
        """The next of these; others before it are dropped. Raises EOFError at the connection's end."""
        while True:
            while self._unread:
                event = self._unread.popleft()
                if isinstance(event, kind) and opcode in (None, getattr(event, "opcode", None)):
                    return event
            data = self.socket.recv(65_536)
            if not data:
                raise EOFError
            self.protocol.receive_data(data)
            self._unread += self.protocol.events_received()

    def close_code(self) -> int:
        """Reads to the end: the code of the close that came, 1006 if none did."""
        with contextlib.suppress(EOFError, ConnectionError):
            self.next(Frame, Opcode.CLOSE)
        return self.protocol.close_rcvd.code if self.protocol.close_rcvd is not None else 1006
