"""A real HTTP server that receives webhooks, in a thread: it answers as it is told, and keeps what it was sent.

with webhook_receiver() as receiver:        receiver.url; answers 200
    receiver.answers = [500, 302, 200]      the next answers, in turn; the last one stays
    receiver.requests[0].headers, .body
"""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.body)
        return found


@dataclass
class WebhookReceiver:
    """What the server answers, and what it got. `before_answer` runs once a request has been read completely."""

    url: str = ""
    answers: list[int] = field(default_factory=lambda: [200])
    headers: dict[str, str] = field(default_factory=dict)
    before_answer: Callable[[Received], None] = lambda _: None
    requests: list[Received] = field(default_factory=list)

    def next_answer(self) -> int:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


@contextlib.contextmanager
def webhook_receiver() -> Iterator[WebhookReceiver]:
    """Runs a receiver until the end of the block."""
    receiver = WebhookReceiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()  # a redirect that is followed would come as one

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            names = {name.lower(): value for name, value in self.headers.items()}
            received = Received(self.path, names, body, time.monotonic())
            receiver.requests.append(received)
            receiver.before_answer(received)
            with contextlib.suppress(OSError):  # its client may have gone
                self.send_response(receiver.next_answer())
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "4")
                self.end_headers()
                self.wfile.write(b"said")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            """Writes nothing."""

    server = _Server(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
