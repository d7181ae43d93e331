"""Upgrades: who may open a socket, with what, and what everybody else is told."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import uvicorn
from websockets.exceptions import InvalidStatus

from gateway.app import Gateway
from gateway.config.settings import Settings
from gateway.server import server_config
from tests.support import gateway as support
from tests.support.gateway import NewKey, RunningGateway, StartGateway
from tests.support.websocket_client import Socket
from tests.websocket.test_turns import ECHO

HANDSHAKE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def refused(gateway: RunningGateway, key: str | None, **options: Any) -> tuple[int, str, Any]:
    """The status, the code and the headers of the answer to an upgrade."""
    with pytest.raises(InvalidStatus) as caught:
        Socket(gateway.url, key, **options)
    answer = caught.value.response
    return answer.status_code, json.loads(answer.body or b"")["error"]["code"], answer.headers


@pytest.mark.parametrize("section", [{"websocket": {"enabled": False}}, {"route": {"websocket": False}}])
def test_where_it_is_off_an_upgrade_is_answered_426(start: StartGateway, section: Any) -> None:
    """Codex goes on over HTTP at once; 403, 404 and 405 it tries five times."""
    with start(**section) as gateway:
        status, code, headers = refused(gateway, gateway.new_key().text)
        assert (status, code) == (426, "websocket_unsupported")
        assert (headers["upgrade"], headers["connection"]) == ("HTTP/1.1", "close, upgrade")
        assert headers["x-request-id"].startswith("req_")


def test_a_route_without_websocket_refuses_its_turns_alone(start: StartGateway) -> None:
    routes = [
        {"model": "*", "upstreams": ["simulator"]},
        {"model": "sim/tokens-1", "upstreams": ["simulator"], "websocket": False},
    ]
    with start(routes=routes) as gateway, Socket(gateway.url, gateway.new_key().text) as socket:
        status, event = socket.turn({**ECHO, "model": "sim/tokens-1"})
        assert (status, event["error"]["code"]) == (426, "websocket_unsupported")
        assert socket.turn(ECHO)[0] == 200


@pytest.mark.parametrize("key", [None, "sk-gw-none", ""])
def test_without_a_key_there_is_no_socket(gateway: RunningGateway, key: str | None) -> None:
    assert refused(gateway, key)[:2] == (401, "invalid_api_key")


def test_a_key_that_is_not_alive_opens_nothing(gateway: RunningGateway, key: NewKey) -> None:
    gateway.revoke(key)
    assert refused(gateway, key.text)[:2] == (401, "invalid_api_key")


def test_a_browsers_key_comes_as_a_subprotocol_and_is_never_echoed(gateway: RunningGateway, key: NewKey) -> None:
    named: Any = ["realtime", f"openai-insecure-api-key.{key.text}", "openai-beta.responses-v1"]
    with Socket(gateway.url, subprotocols=named) as socket:
        assert socket.connection.subprotocol == "realtime"
        assert key.text not in repr(list(socket.connection.response.headers.raw_items()))
        assert socket.turn(ECHO)[0] == 200
    with Socket(gateway.url, subprotocols=named[1:]) as socket:
        assert socket.connection.subprotocol is None
    assert refused(gateway, key.text, subprotocols=named)[:2] == (401, "invalid_api_key")
    assert refused(gateway, None, subprotocols=["realtime"])[:2] == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"sec-websocket-key": "AAAA"}, 400, "invalid_http"),
        ({"sec-websocket-key": None}, 400, "invalid_http"),
        ({"sec-websocket-version": "8"}, 426, "upgrade_unsupported"),
        ({"sec-websocket-extensions": "\x7f;;"}, 400, "invalid_http"),
        ({"x-gateway-dry-run": "true"}, 400, "invalid_field"),
    ],
)
def test_what_is_no_handshake_is_refused(
    gateway: RunningGateway, key: NewKey, change: dict[str, Any], status: int, code: str
) -> None:
    headers = {name: value for name, value in (HANDSHAKE | change).items() if value is not None}
    with gateway.http(key) as http:
        answer = http.get("/v1/responses", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.headers.get("sec-websocket-version") == ("13" if status == 426 else None)


def test_a_get_without_an_upgrade_is_what_it_was(gateway: RunningGateway, key: NewKey) -> None:
    with gateway.http(key) as http:
        assert http.get("/v1/responses").status_code == 405


def test_pages_of_other_origins_open_no_socket(start: StartGateway) -> None:
    with start(server={"port": 0, "cors_origins": ["https://app.example"]}) as gateway:
        key = gateway.new_key().text
        assert refused(gateway, key, origin="https://evil.example")[:2] == (403, "origin_not_allowed")
        assert refused(gateway, key, origin="null")[:2] == (403, "origin_not_allowed")
        for origin in ("https://app.example", gateway.url, None):
            with Socket(gateway.url, key, origin=origin) as socket:
                assert socket.turn(ECHO)[0] == 200


def test_wrong_keys_are_throttled_as_everywhere(start: StartGateway) -> None:
    with start(server={"port": 0, "auth_failures_per_minute": 2}) as gateway:
        answers = [refused(gateway, "sk-gw-none")[0] for _ in range(4)]
        assert answers == [401, 401, 429, 429]


def test_while_it_stops_upgrades_are_told_to_come_back(start: StartGateway) -> None:
    with start() as gateway:
        key = gateway.new_key().text
        gateway.loop.call_soon_threadsafe(gateway.services.sockets.drain)
        status, code, headers = refused(gateway, key)
        assert (status, code, headers["retry-after"]) == (503, "shutting_down", "1")


@pytest.mark.parametrize("ws", ["auto", "none"])
def test_on_another_server_an_upgrade_is_answered_426(
    start: StartGateway, monkeypatch: pytest.MonkeyPatch, ws: Any
) -> None:
    def config_of(settings: Settings, app: Gateway) -> uvicorn.Config:
        config = server_config(settings, app)
        config.http = "h11"
        config.ws = ws
        return config

    monkeypatch.setattr(support, "server_config", config_of)
    with start() as gateway:
        key = gateway.new_key().text
        with pytest.raises(InvalidStatus) as caught:
            Socket(gateway.url, key)
        assert caught.value.response.status_code == 426
        with httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {key}"}) as http:
            assert http.post("/v1/responses", json=ECHO).status_code == 200
