"""A provider that answers each request with the result of a test's function, and keeps the requests.

with AnsweringProvider.serving(lambda request: Answer({...})) as provider:
    provider.url, provider.bodies
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Answer:
    """One answer. `body`: JSON, raw bytes, or events of a stream; `wait`: an event to wait for before the head."""

    body: Any = None
    status: int = 200
    events: Sequence[Mapping[str, Any] | bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: threading.Event | None = None
    delay_s: float = 0
    reset: bool = False


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    method: str
    path: str
    raw: bytes

    @property
    def fields(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw) if self.raw else {}
        return found


class AnsweringProvider:
    """A threaded server; `respond` may be replaced between requests.

    State that changes: `requests`; `sent`, an event that is set when an answer has been written.
    """

    def __init__(self, respond: Callable[[Request], Answer]) -> None:
        self.respond = respond
        self.requests: list[Request] = []
        self.sent = threading.Event()
        self.url = ""

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [request.fields for request in self.requests]

    @classmethod
    @contextlib.contextmanager
    def serving(cls, respond: Callable[[Request], Answer]) -> Iterator[Self]:
        provider = cls(respond)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self) -> None:
                length = int(self.headers.get("content-length", 0))
                request = Request(self.command, self.path, self.rfile.read(length))
                provider.requests.append(request)
                answer = provider.respond(request)
                if answer.wait is not None:
                    answer.wait.wait(20)
                if answer.delay_s:
                    time.sleep(answer.delay_s)  # the slowness that the test asked for
                if answer.reset:
                    self.close_connection = True
                    self.connection.close()
                    return
                with contextlib.suppress(OSError):
                    self.write(answer)
                provider.sent.set()

            def write(self, answer: Answer) -> None:
                if answer.events is None:
                    data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                    kind = "application/json"
                else:
                    data = b"".join(one if isinstance(one, bytes) else frame(one) for one in answer.events)
                    kind = "text/event-stream"
                self.send_response(answer.status)
                for name, value in {"content-type": kind, "content-length": str(len(data)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = serve  # noqa: N815 - the names are http.server's

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        provider.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            server.server_close()
            thread.join(20)


def frame(event: Mapping[str, Any]) -> bytes:
    """An event as OpenResponses frames it."""
    return b"event: %b\ndata: %b\n\n" % (str(event.get("type")).encode(), json.dumps(event).encode())


def response(usage: Mapping[str, Any] | None, **fields: Any) -> dict[str, Any]:
    """A whole response."""
    made: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "completed", "output": [], "usage": usage}
    return made | fields


def streamed(whole: Mapping[str, Any], *texts: str) -> list[dict[str, Any]]:
    """The events of a response's stream."""
    opening = {**whole, "status": "in_progress", "usage": None, "output": []}
    deltas = [
        {"type": "response.output_text.delta", "sequence_number": number, "item_id": "msg_1", "delta": text}
        for number, text in enumerate(texts, 1)
    ]
    created = {"type": "response.created", "sequence_number": 0, "response": opening}
    return [created, *deltas, {"type": f"response.{whole['status']}", "sequence_number": 99, "response": dict(whole)}]
