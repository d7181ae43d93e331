"""A provider with WebSocket mode: a test answers each turn, or lets it be answered.

    with WebSocketProvider.serving() as provider:
        provider.answers = lambda turn: turn.say("hello")      what becomes of each turn; by default it says "hello"
        provider.turns                                         all turns, oldest first: what was sent, and where
        provider.posts                                         the bodies that came by POST
        provider.upgrades                                      the heads of all handshakes
        provider.refusal = (503, {"error": ...})               how a handshake is refused; None: it is not

A turn is answered in a thread of its connection: `turn.send(event)`, `turn.say(text)`, `turn.drop()`.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from tests.support.waiting import wait_until_sync

USAGE = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 10,
}


def response(identifier: str, text: str | None, **fields: Any) -> dict[str, Any]:
    """A response; with no text, one that has just begun."""
    part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    return {
        "id": identifier,
        "object": "response",
        "created_at": 1_795_000_000,
        "status": "in_progress" if text is None else "completed",
        "model": "openai/gpt-5.2",
        "output": [] if text is None else [message],
        "usage": None if text is None else USAGE,
        **fields,
    }


class Connection:
    """One connection: the far end of a socket of the gateway."""

    def __init__(self, handler: BaseHTTPRequestHandler, protocol: ServerProtocol) -> None:
        self.protocol = protocol
        self.pings = 0
        self._handler = handler
        self._lock = threading.Lock()

    def send(self, message: str | bytes) -> None:
        data = message.encode() if isinstance(message, str) else message
        with self._lock, contextlib.suppress(OSError, InvalidState):
            self.protocol.send_text(data)
            self.flush()

    def receive(self, data: bytes) -> list[Any]:
        """Takes bytes and answers pings. Turns send from threads of their own: without the lock frames were lost."""
        with self._lock:
            self.protocol.receive_data(data)
            self.flush()
            return self.protocol.events_received()

    def flush(self) -> None:
        for data in self.protocol.data_to_send():
            self._handler.wfile.write(data)

    def close(self, code: int = 1000) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self.protocol.state is State.OPEN:
                self.protocol.send_close(code)
                self.flush()

    def drop(self) -> None:
        """The end without a word."""
        with contextlib.suppress(OSError):
            self._handler.connection.shutdown(2)


@dataclass
class Turn:
    """One message, and where it came."""

    fields: dict[str, Any]
    text: bytes
    connection: Connection
    number: int

    @property
    def id(self) -> str:
        return f"resp_ws_{self.number}"

    def send(self, event: dict[str, Any] | bytes) -> None:
        if isinstance(event, bytes):
            self.connection.send(event)
            return
        lane = self.fields.get("stream_id")
        self.connection.send(json.dumps(event if lane is None else {**event, "stream_id": lane}))

    def begin(self, identifier: str | None = None) -> None:
        begun = response(identifier or self.id, None, store=self.fields.get("store", True))
        self.send({"type": "response.created", "sequence_number": 0, "response": begun})

    def finish(self, text: str, identifier: str | None = None, **fields: Any) -> None:
        whole = response(identifier or self.id, text, store=self.fields.get("store", True), **fields)
        self.send({"type": "response.output_text.delta", "sequence_number": 1, "output_index": 0, "delta": text})
        item = {"output_index": 0, "item": whole["output"][0]}
        self.send({"type": "response.output_item.done", "sequence_number": 2, **item})
        self.send({"type": f"response.{whole['status']}", "sequence_number": 3, "response": whole})

    def say(self, text: str) -> None:
        self.begin()
        self.finish(text)

    def fail(self, status: int, code: str, message: str = "No.") -> None:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        self.send({"type": "error", "status": status, "error": error})

    def drop(self) -> None:
        self.connection.drop()


@dataclass
class WebSocketProvider:
    """The provider. State that changes: all of it."""

    url: str = ""
    turns: list[Turn] = field(default_factory=list)
    steers: list[Turn] = field(default_factory=list)
    posts: list[dict[str, Any]] = field(default_factory=list)
    upgrades: list[dict[str, str]] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    refusal: tuple[int, Any] | None = None
    answers: Callable[[Turn], None] = lambda turn: turn.say("hello")
    steered: Callable[[Turn], None] = lambda turn: None

    def reset(self) -> None:
        """As it was at first; connections stay."""
        fresh = type(self)(self.url)
        for name in ("turns", "steers", "posts", "upgrades", "refusal", "answers", "steered"):
            setattr(self, name, getattr(fresh, name))

    @property
    def open(self) -> int:
        """How many connections are open."""
        return sum(one.protocol.state is State.OPEN for one in self.connections)

    def wait_for_turns(self, count: int) -> None:
        wait_until_sync(lambda: len(self.turns) >= count, what=f"{count} turns have come")

    @classmethod
    @contextlib.contextmanager
    def serving(cls, tls: ssl.SSLContext | None = None) -> Iterator[Self]:
        provider = cls()
        handler = type("Handler", (_Handler,), {"provider": provider})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        provider.url = f"http{'s' if tls is not None else ''}://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield provider
        finally:
            for connection in provider.connections:
                connection.drop()
            server.shutdown()
            server.server_close()
            thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    provider: WebSocketProvider
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if "upgrade" not in self.headers:  # a gateway may ask later for the usage of a response
            self.answer(404, {"error": {"message": "No.", "type": "x", "param": None, "code": "not_found"}})
            return
        self.provider.upgrades.append({name.lower(): value for name, value in self.headers.items()})
        if self.provider.refusal is not None:
            self.answer(*self.provider.refusal)
            return
        protocol = ServerProtocol(max_size=None)
        head = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        protocol.receive_data(f"GET {self.path} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
        request = next(event for event in protocol.events_received() if isinstance(event, Request))
        protocol.send_response(protocol.accept(request))
        connection = Connection(self, protocol)
        connection.flush()
        self.provider.connections.append(connection)
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.listen(connection)
        protocol.receive_eof()
        protocol.state = State.CLOSED

    def listen(self, connection: Connection) -> None:
        parts: list[bytes] = []
        while data := self.connection.recv(65_536):
            for event in connection.receive(data):
                if not isinstance(event, Frame):
                    continue
                if event.opcode is Opcode.PING:
                    connection.pings += 1
                if event.opcode in (Opcode.TEXT, Opcode.CONT):
                    parts.append(bytes(event.data))
                    if event.fin:
                        self.take(connection, b"".join(parts))
                        parts.clear()
            if connection.protocol.state is not State.OPEN:
                return

    def take(self, connection: Connection, text: bytes) -> None:
        turn = Turn(json.loads(text), text, connection, len(self.provider.turns) + 1)
        is_steer = turn.fields["type"] == "response.steer"
        (self.provider.steers if is_steer else self.provider.turns).append(turn)
        work = self.provider.steered if is_steer else self.provider.answers
        threading.Thread(target=work, args=(turn,), daemon=True).start()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.provider.posts.append(body)
        self.answer(200, response(f"resp_post_{len(self.provider.posts)}", "by POST", store=body.get("store", True)))

    def answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Nothing: the tests say what failed."""
