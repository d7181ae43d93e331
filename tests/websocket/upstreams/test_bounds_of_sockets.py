"""What bounds a socket to an upstream: its messages, its silence, its age, and how many there are."""

from __future__ import annotations

import asyncio

import pytest

from gateway.upstream import websocket
from tests.support.gateway import NewKey, RunningGateway, StartGateway
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import Socket
from tests.support.websocket_provider import Turn, WebSocketProvider, response
from tests.websocket.upstreams.conftest import COST_NANO_USD, MODEL, UPGRADES, ended, spent


def test_a_message_over_the_bound_ends_the_turn(start: StartGateway, provider: WebSocketProvider) -> None:
    def answers(turn: Turn) -> None:
        turn.begin()
        turn.finish("x" * 100_000)

    provider.answers = answers
    with start(upstream={**UPGRADES, "max_event_bytes": 50_000}) as gateway:
        key = gateway.new_key()
        with Socket(gateway.url, key.text) as socket:
            socket.create(model=MODEL, input="x")
            assert ended(socket) == "response.failed"
        assert spent(gateway, key)[1] == 0


def test_a_provider_that_is_silent_ends_the_turn_in_time(start: StartGateway, provider: WebSocketProvider) -> None:
    provider.answers = lambda turn: None
    with start(upstream={**UPGRADES, "first_byte_timeout_s": 0.3}) as gateway:
        key = gateway.new_key()
        with Socket(gateway.url, key.text) as socket:
            assert socket.turn({"model": MODEL, "input": "x"})[0] == 408
        assert spent(gateway, key)[1] == 0
    wait_until_sync(lambda: provider.open == 0, what="the socket is closed")


def test_a_provider_that_falls_silent_in_a_turn_ends_it_in_time(
    start: StartGateway, provider: WebSocketProvider
) -> None:
    provider.answers = lambda turn: turn.begin()
    with start(upstream={**UPGRADES, "chunk_timeout_s": 0.3}) as gateway:
        key = gateway.new_key()
        with Socket(gateway.url, key.text) as socket:
            socket.create(model=MODEL, input="x")
            assert ended(socket) == "response.failed"
        assert spent(gateway, key)[1] == 0


def test_more_sockets_than_a_key_may_have_go_by_post(start: StartGateway, provider: WebSocketProvider) -> None:
    with start(upstream={**UPGRADES, "max_connections": 1}) as gateway:
        key = gateway.new_key().text
        with Socket(gateway.url, key) as one, Socket(gateway.url, key) as other:
            assert one.turn({"model": MODEL, "input": "x"})[0] == 200
            assert other.turn({"model": MODEL, "input": "x"})[0] == 200
    assert (len(provider.turns), len(provider.posts)) == (1, 1)


def test_a_response_that_nobody_asked_for_ends_the_socket(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    def answers(turn: Turn) -> None:
        turn.say("hello")
        turn.send({"type": "response.created", "response": response("resp_unasked", None)})

    provider.answers = answers
    with Socket(over.url, over_key.text) as socket:
        assert socket.turn({"model": MODEL, "input": "x"})[0] == 200
        wait_until_sync(lambda: provider.open == 0, what="the socket is closed")
    assert spent(over, over_key) == (COST_NANO_USD, 0)


def test_a_socket_that_its_provider_closes_for_its_age_is_replaced(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    """It says so in place of the turn's first event: nothing was begun."""
    first: list[Turn] = []

    def answers(turn: Turn) -> None:
        if first and turn.connection is first[0].connection:
            turn.fail(400, "websocket_connection_limit_reached")
            turn.connection.close(1001)
        else:
            first.append(turn)
            turn.say("hello")

    provider.answers = answers
    with Socket(over.url, over_key.text) as socket:
        for _ in range(2):
            assert socket.turn({"model": MODEL, "input": "x"})[0] == 200
    assert len(provider.turns) == 3
    assert spent(over, over_key) == (2 * COST_NANO_USD, 0)


@pytest.mark.parametrize(("later_s", "pings", "closed"), [(31.0, 1, False), (601.0, 0, True), (3301.0, 0, True)])
def test_an_idle_socket_is_pinged_and_then_closed(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider, later_s: float, pings: int, closed: bool
) -> None:
    assert websocket.IDLE_S < websocket.MAX_AGE_S

    async def tick() -> None:
        now_s = asyncio.get_running_loop().time()
        for session in over.services.sockets.sessions():
            session.upstreams.tick(now_s + later_s)

    with Socket(over.url, over_key.text) as socket:
        assert socket.turn({"model": MODEL, "input": "x"})[0] == 200
        connection = provider.turns[0].connection
        over.run(tick())
        if closed:
            wait_until_sync(lambda: provider.open == 0, what="the socket is closed")
        else:
            wait_until_sync(lambda: connection.pings == pings, what="a ping has come")
            assert provider.open == 1
        assert socket.turn({"model": MODEL, "input": "x"})[0] == 200
    assert spent(over, over_key) == (2 * COST_NANO_USD, 0)


def test_a_slow_client_stops_the_reading_from_the_provider(start: StartGateway, provider: WebSocketProvider) -> None:
    """What is made meanwhile waits at the provider; what the client then reads is whole."""
    piece, count = "x" * 20_000, 200

    def answers(turn: Turn) -> None:
        turn.begin()
        for number in range(count):
            event = {"type": "response.output_text.delta", "sequence_number": number, "output_index": 0}
            turn.send({**event, "delta": piece})
        turn.finish("done")

    provider.answers = answers
    with start(upstream=UPGRADES) as gateway, Socket(gateway.url, gateway.new_key().text, max_size=None) as socket:
        socket.create(model=MODEL, input="x")
        events = socket.events()
    assert sum(event.get("delta") == piece for event in events) == count
    assert events[-1]["type"] == "response.completed"
