"""A browser's key comes as a subprotocol of the upgrade. Nobody else gets to see it.

| who                       | sees                                     |
|---------------------------|------------------------------------------|
| the browser's page        | the subprotocol that was chosen          |
| a provider, by POST       | nothing of the handshake (test_turns.py) |
| a provider, by WebSocket  | the same                                 |
| the log, a trace          | the same                                 |
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.types import Headers
from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.servers import Server
from tests.support.websocket_client import Socket
from tests.support.websocket_provider import WebSocketProvider
from tests.websocket.conftest import Log
from tests.websocket.test_upgrades import HANDSHAKE

MODEL = "openai/gpt-5.2"


@pytest.fixture(scope="module")
def sockets() -> Iterator[WebSocketProvider]:
    with WebSocketProvider.serving() as serving:
        yield serving


@pytest.fixture
def over(store: Server, sockets: WebSocketProvider, tmp_path: Path, log: Log) -> Iterator[RunningGateway]:
    upstream = {"websocket": True, "on_client_leave": "abort"}
    sections: dict[str, Any] = {"log": {"format": "json", "level": "debug"}}
    with running_gateway(store.url, sockets.url, tmp_path, log_to=log.stream, upstream=upstream, **sections) as running:
        yield running


def subprotocols(key: NewKey, *others: str) -> Any:
    return ["realtime", f"openai-insecure-api-key.{key.text}", *others]


def test_a_provider_of_websocket_mode_sees_nothing_of_it(
    over: RunningGateway, sockets: WebSocketProvider, log: Log
) -> None:
    key = over.new_key()
    with Socket(over.url, subprotocols=subprotocols(key)) as socket:
        assert socket.turn({"model": MODEL, "input": "x"})[0] == 200
        shown = repr(list(socket.connection.response.headers.raw_items()))
    log.wait(key, 1)
    seen = json.dumps([sockets.upgrades, [turn.fields for turn in sockets.turns]])
    assert sockets.upgrades[-1]["authorization"] == "Bearer upstream-key-of-the-tests"
    for text in (seen, shown, log.stream.getvalue()):
        assert key.text not in text
        assert "insecure" not in text


def test_no_turn_has_it_in_another_header_than_a_programs_key(over: RunningGateway) -> None:
    """What a turn has of the upgrade's headers is what may go to a provider, and what a trace is told."""
    key, told = over.new_key(), list[Headers]()

    def begin_trace(_record: object, _operation: object, headers: Headers) -> None:
        told.append(headers)

    handler: Any = over.services.handler
    handler.begin_trace = begin_trace
    try:
        with Socket(over.url, subprotocols=subprotocols(key)) as socket:
            assert socket.turn({"model": MODEL, "input": "x"})[0] == 200
    finally:
        handler.begin_trace = None
    (headers,) = told
    assert [name for name, value in headers if key.text.encode() in value] == [b"authorization"]
    assert not [name for name, _ in headers if name.startswith(b"sec-websocket")]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://elsewhere.example"}, 403),
        ({"authorization": "Bearer another"}, 401),
        ({"sec-websocket-version": "8"}, 426),
        ({"sec-websocket-key": "AAAA"}, 400),
        ({"x-gateway-dry-run": "true"}, 400),
    ],
)
def test_a_refusal_does_not_repeat_it(over: RunningGateway, log: Log, headers: dict[str, str], status: int) -> None:
    key = over.new_key()
    offered = {"sec-websocket-protocol": ", ".join(subprotocols(key))}
    with over.http() as http:
        answer = http.get("/v1/responses", headers={**HANDSHAKE, **offered, **headers})
    assert answer.status_code == status
    for text in (answer.text, repr(answer.headers.raw), log.stream.getvalue()):
        assert key.text not in text
        assert "insecure" not in text


def test_one_that_is_revoked_is_not_repeated_either(over: RunningGateway, log: Log) -> None:
    key = over.new_key()
    over.revoke(key)
    with over.http() as http:
        offered = {"sec-websocket-protocol": ", ".join(subprotocols(key))}
        answer = http.get("/v1/responses", headers={**HANDSHAKE, **offered})
    assert answer.status_code == 401
    assert key.text not in answer.text + repr(answer.headers.raw) + log.stream.getvalue()
