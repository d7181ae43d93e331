"""`gateway try` waits for the cost, which is there shortly after the answer, against a real HTTP server."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.program import run

REQUEST = "/admin/v1/requests/req_1"
STREAM = 'data: {"type":"response.completed","response":{"usage":{"input_tokens":1,"output_tokens":2}}}\n\n'
NOT_FOUND = (404, {"error": {"code": "request_not_found", "message": "There is no such request."}})
NOT_ALLOWED = (403, {"error": {"code": "not_allowed", "message": "This key may not read requests."}})
SETTLED = (200, {"cost_usd": "0.000025"})


@dataclass
class Gateway:
    """Answers as a gateway does. `settlement`: what it says of the request, in turn; `paths`: what it was asked."""

    settlement: list[tuple[int, dict[str, Any]]]
    paths: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, str, str]:
        self.paths.append(path)
        if path == "/v1/responses":
            return 200, "text/event-stream", STREAM
        status, body = (200, {"id": "key_1"})
        if path == REQUEST:
            status, body = self.settlement.pop(0) if len(self.settlement) > 1 else self.settlement[0]
        return status, "application/json", json.dumps(body)


@contextlib.contextmanager
def serving(gateway: Gateway) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.respond()

        def do_POST(self) -> None:
            self.respond()

        def respond(self) -> None:
            self.rfile.read(int(self.headers["content-length"] or 0))
            status, kind, text = gateway.answer(self.path)
            self.send_response(status)
            for name, value in (("content-type", kind), ("content-length", len(text)), ("x-request-id", "req_1")):
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            """Nothing: the test says what failed."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def tried(gateway: Gateway, directory: Path) -> dict[str, Any]:
    with serving(gateway) as url:
        env = {"GATEWAY_URL": url, "GATEWAY_ADMIN_KEY": "k" * 32}
        done = run("try", "hello", "--model", "m", "--key", "sk-gw-test", "--json", cwd=directory, env=env)
    assert (done.code, done.err) == (0, "")
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_it_waits_for_the_settlement_and_asks_for_the_balance_afterwards(tmp_path: Path) -> None:
    gateway = Gateway([NOT_FOUND, (200, {"cost_usd": None}), NOT_FOUND, SETTLED])
    assert tried(gateway, tmp_path)["cost_usd"] == "0.000025"
    assert gateway.paths == ["/v1/responses", *[REQUEST] * 4, "/v1/key"]


def test_an_admin_key_that_may_not_read_requests_is_not_waited_for(tmp_path: Path) -> None:
    gateway = Gateway([NOT_ALLOWED])
    assert tried(gateway, tmp_path)["cost_usd"] is None
    assert gateway.paths.count(REQUEST) == 1


def test_a_request_that_is_never_settled_is_given_up(tmp_path: Path) -> None:
    gateway = Gateway([NOT_FOUND])
    assert tried(gateway, tmp_path)["cost_usd"] is None
    assert gateway.paths.count(REQUEST) > 1
