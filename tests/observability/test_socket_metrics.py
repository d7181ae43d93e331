"""Sockets and their turns are counted: those of clients, and those to upstreams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.observability.scrape import scrape, value
from tests.support.admins import admin_client
from tests.support.dashboard_client import signed_in
from tests.support.gateway import RunningGateway, StartGateway, running_gateway
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import Socket
from tests.support.websocket_provider import Turn, WebSocketProvider

MODEL = "openai/gpt-5.2"
ECHO = {"model": "o4-mini", "input": "hello"}
UPSTREAM = "gateway_upstream_websockets"
TURNS = "gateway_upstream_websocket_turns_total"


@pytest.fixture
def provider() -> Iterator[WebSocketProvider]:
    with WebSocketProvider.serving() as serving:
        yield serving


def test_sockets_of_clients_and_their_turns_are_counted_by_how_they_ended(start: StartGateway) -> None:
    with (
        start(upstream={"on_client_leave": "abort"}) as gateway,
        Socket(gateway.url, key := gateway.new_key().text) as idle,
        Socket(gateway.url, key) as socket,
    ):
        assert socket.turn(ECHO)[0] == 200
        assert idle.turn({**ECHO, "generate": False})[0] == 200
        assert socket.turn({"input": "of no model"})[0] == 400
        socket.create(model="sim/stall-3", input="x")
        wait_until_sync(lambda: value(gateway.url, "gateway_websockets", state="busy") == 1, what="a turn runs")
        assert value(gateway.url, "gateway_websockets", state="open") == 2
        socket.close()
        name = "gateway_websocket_turns_total"
        wait_until_sync(lambda: value(gateway.url, name, result="left") == 1, what="the turn has ended")
        assert [value(gateway.url, name, result=result) for result in ("answered", "warm_up", "refused")] == [1, 1, 1]
        idle.close()
        wait_until_sync(lambda: value(gateway.url, "gateway_websockets_closed_total") == 2, what="both have ended")
        assert value(gateway.url, "gateway_websockets") == 0


def test_sockets_to_an_upstream_and_the_turns_over_them_are_counted(
    store: Server, provider: WebSocketProvider, tmp_path: Path
) -> None:
    with running_gateway(store.url, provider.url, tmp_path, upstream={"websocket": True}) as gateway:
        with Socket(gateway.url, gateway.new_key().text) as socket:
            assert value(gateway.url, UPSTREAM, upstream="simulator") == 0
            for _ in range(2):
                assert socket.turn({"model": MODEL, "input": "x"})[0] == 200
            for state in ("open", "idle"):
                assert value(gateway.url, UPSTREAM, upstream="simulator", state=state) == 1
            provider.answers = Turn.drop
            socket.create(model=MODEL, input="x")
            socket.receive()
            wait_until_sync(lambda: value(gateway.url, UPSTREAM) == 0, what="the socket is gone")
        assert value(gateway.url, TURNS, upstream="simulator", result="200") == 2
        wait_until_sync(lambda: value(gateway.url, TURNS, result="reset") == 1, what="the broken turn is counted")


def test_a_turn_that_goes_by_post_is_none_over_a_socket(
    store: Server, provider: WebSocketProvider, tmp_path: Path
) -> None:
    provider.refusal = (426, {"error": {"message": "no", "type": "x", "param": None, "code": "y"}})
    with running_gateway(store.url, provider.url, tmp_path, upstream={"websocket": True}) as gateway:
        with Socket(gateway.url, gateway.new_key().text) as socket:
            assert socket.turn({"model": MODEL, "input": "x"})[0] == 200
        gateway.wait_until_settled()
        assert value(gateway.url, "gateway_upstream_requests_total", result="200") == 1
        assert value(gateway.url, TURNS) == 0


def test_upstreams_without_sockets_have_no_such_series(gateway: RunningGateway) -> None:
    assert not [name for name, _ in scrape(gateway.url) if name == UPSTREAM]


def test_the_configuration_shows_each_workers_sockets_and_turns(
    own_store: Server, upstream: str, tmp_path: Path
) -> None:
    with (
        running_gateway(own_store.url, upstream, tmp_path) as gateway,
        Socket(gateway.url, gateway.new_key().text) as socket,
        admin_client(gateway) as root,
    ):
        assert socket.turn(ECHO)[0] == 200

        def told() -> bool:
            workers = root.get("/config").json()["workers"]
            return [(one["sockets"], one["socket_turns"]) for one in workers] == [(1, 1)]

        wait_until_sync(told, what="the worker has told of its socket and its turn")
        with signed_in(gateway) as dashboard:
            page = dashboard.get("/configuration").text
        assert "Open sockets" in page
        assert "Turns of sockets" in page
