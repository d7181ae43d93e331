"""A provider that offers POST /responses alone and keeps nothing: it answers with what a test gives it.

with PostOnlyProvider.serving() as provider:
    provider.next(answer)              the next call gets this response, as JSON or as events, by what it asks
    provider.received                  the bodies of all calls, oldest first
    provider.keys                      the keys that these calls came with
    provider.left                      those whose caller closed the connection before an answer was released
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.support.waiting import wait_until_sync


@dataclass(frozen=True)
class Answer:
    """What a call gets. `stream`: {"item_events", "terminal"}: exactly these, where events are asked for;
    `ends`: with `[DONE]` behind them. `streams`: False answers as JSON all the same. `released`: until it is set, an
    answer does not come, and a stream goes no further than its first `shown` events.
    """

    response: dict[str, Any]
    status: int = 200
    delay_s: float = 0
    stream: dict[str, Any] | None = None
    ends: bool = True
    released: threading.Event | None = None
    shown: int = 0
    streams: bool = True


@dataclass
class PostOnlyProvider:
    """The provider. State that changes: the answers to come, and what was received."""

    url: str = ""
    received: list[dict[str, Any]] = field(default_factory=list)
    left: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    _answers: list[Answer] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, answer: Answer) -> None:
        with self._lock:
            self._answers.append(answer)

    def forget(self) -> None:
        """Drops the answers that no call has asked for: a test before this one left them."""
        with self._lock:
            self._answers.clear()

    def wait_for_calls(self, count: int) -> None:
        wait_until_sync(lambda: len(self.received) >= count, what=f"{count} calls have reached the provider")

    @classmethod
    @contextlib.contextmanager
    def serving(cls) -> Iterator[Self]:
        provider = cls()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with provider._lock:
                    provider.received.append(body)
                    provider.keys.append(self.headers["authorization"].removeprefix("Bearer "))
                    answer = provider._answers.pop(0) if provider._answers else Answer({"error": "unexpected"}, 500)
                time.sleep(answer.delay_s)  # the provider's work, as the test asks for it
                streamed = body.get("stream") and answer.status == 200 and answer.streams
                data = b"".join(_events(answer)) if streamed else json.dumps(answer.response).encode()
                first = b"".join(_events(answer)[: answer.shown]) if streamed else b""
                if not first and not self.is_released(answer, body):
                    return
                self.send_response(answer.status)
                self.send_header("content-type", "text/event-stream" if streamed else "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(first)
                    if self.is_released(answer, body):
                        self.wfile.write(data[len(first) :])

            def is_released(self, answer: Answer, body: dict[str, Any]) -> bool:
                """Waits for the test, or for the end of the connection."""
                while answer.released is not None and not answer.released.wait(0.01):
                    readable, _, _ = select.select([self.connection], [], [], 0)
                    if readable and not self.connection.recv(1, socket.MSG_PEEK):
                        provider.left.append(body)
                        self.close_connection = True
                        return False
                return True

            def log_message(self, *args: object) -> None:
                """Nothing: the tests say what failed."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        provider.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)


def _events(answer: Answer) -> list[bytes]:
    response = answer.response
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    if answer.stream is not None:
        events += answer.stream["item_events"]
        events.append(answer.stream["terminal"])
    else:
        for index, item in enumerate(response["output"]):
            events += _item_events(index, item)
        events.append({"type": f"response.{response['status']}", "response": response})
    frames = [
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n".encode()
        for number, event in enumerate(events)
    ]
    return [*frames, b"data: [DONE]\n\n"] if answer.ends else frames


def _item_events(index: int, item: dict[str, Any]) -> list[dict[str, Any]]:
    place = {"output_index": index, "item_id": item.get("id"), "content_index": 0}
    deltas = [
        {"type": "response.output_text.delta", "delta": part["text"], **place}
        for part in item.get("content") or []
        if part.get("type") == "output_text"
    ]
    added = {"type": "response.output_item.added", "output_index": index, "item": {**item, "status": "in_progress"}}
    return [added, *deltas, {"type": "response.output_item.done", "output_index": index, "item": item}]
