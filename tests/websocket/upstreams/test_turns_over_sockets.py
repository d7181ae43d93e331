"""Turns over a socket to the upstream: what passes, what is reused, what is refused, and what ends them."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.forward_proxies import forward_proxy
from tests.support.gateway import NewKey, RunningGateway, StartGateway, running_gateway
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import Socket
from tests.support.websocket_provider import Turn, WebSocketProvider
from tests.websocket.upstreams.conftest import COST_NANO_USD, MODEL, UPGRADES, ended, spent


def test_a_turn_goes_over_a_socket_with_the_upstreams_own_key_and_its_messages_come_back_byte_for_byte(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    odd = '{"type": "response.output_text.delta",  "delta":"\\u00e9 é \\"stream_id\\"", "x": [1,2]}'.encode()
    whole: list[bytes] = []

    def answers(turn: Turn) -> None:
        turn.begin()
        turn.send(odd)
        turn.finish("done")

    provider.answers = answers
    with Socket(over.url, over_key.text) as socket:
        socket.create(model=MODEL, input="hi", store=True, future_field={"a": [1.50, "é"]}, stream=True)
        while not whole or b"response.completed" not in whole[-1]:
            message = socket.connection.recv(timeout=10)
            whole.append(message.encode() if isinstance(message, str) else message)
    assert odd in whole
    sent = provider.turns[0].fields
    assert sent == {
        "type": "response.create", "model": MODEL, "input": "hi", "store": True, "future_field": {"a": [1.5, "é"]},
    }  # fmt: skip
    assert provider.upgrades[0]["authorization"] == "Bearer upstream-key-of-the-tests"
    assert over_key.text not in json.dumps(provider.upgrades)
    assert not provider.posts
    assert spent(over, over_key) == (COST_NANO_USD, 0)


def test_the_turns_of_a_session_share_a_socket_that_ends_with_it(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    with Socket(over.url, over_key.text) as socket:
        for _ in range(3):
            assert socket.turn({"model": MODEL, "input": "x"})[0] == 200
        assert provider.open == 1
    assert len({id(turn.connection) for turn in provider.turns}) == 1
    wait_until_sync(lambda: provider.open == 0, what="the upstream's socket is closed")
    assert spent(over, over_key) == (3 * COST_NANO_USD, 0)


def test_an_unstored_chain_goes_on_unchanged_on_its_socket_and_whole_on_another(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    unstored: dict[str, Any] = {"model": MODEL, "store": False}
    with Socket(over.url, over_key.text) as socket:
        first = socket.turn({**unstored, "input": "one"})[1]["response"]["id"]
        second = socket.turn({**unstored, "input": "two", "previous_response_id": first})[1]["response"]["id"]
        sent = provider.turns[1].fields
        assert (sent["input"], sent["previous_response_id"]) == ("two", first)
        provider.turns[1].drop()
        wait_until_sync(lambda: provider.open == 0, what="the socket is gone")
        assert socket.turn({**unstored, "input": "three", "previous_response_id": second})[0] == 200
        sent = provider.turns[2].fields
        assert "previous_response_id" not in sent
        said = [item["content"][0]["text"] for item in sent["input"]]
        assert said == ["one", "hello", "two", "hello", "three"]
    assert spent(over, over_key) == (3 * COST_NANO_USD, 0)


def test_what_a_provider_has_forgotten_is_sent_again_on_the_same_socket(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    def answers(turn: Turn) -> None:
        if turn.fields.get("previous_response_id"):
            turn.fail(400, "previous_response_not_found")
        else:
            turn.say("hello")

    provider.answers = answers
    unstored: dict[str, Any] = {"model": MODEL, "store": False}
    with Socket(over.url, over_key.text) as socket:
        first = socket.turn({**unstored, "input": "one"})[1]["response"]["id"]
        assert socket.turn({**unstored, "input": "two", "previous_response_id": first})[0] == 200
    assert [len(turn.fields["input"]) for turn in provider.turns] == [3, 3, 3]
    assert len({id(turn.connection) for turn in provider.turns}) == 1
    assert spent(over, over_key) == (2 * COST_NANO_USD, 0)


def test_an_error_before_the_first_event_is_a_refusal_and_the_socket_goes_on(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    provider.answers = lambda turn: turn.fail(400, "invalid_prompt", "Not this.")
    with Socket(over.url, over_key.text) as socket:
        status, event = socket.turn({"model": MODEL, "input": "x"})
        assert (status, event["error"]["code"], event["error"]["message"]) == (400, "invalid_prompt", "Not this.")
        provider.answers = lambda turn: turn.say("hello")
        assert socket.turn({"model": MODEL, "input": "x"})[0] == 200
    assert len({id(turn.connection) for turn in provider.turns}) == 1
    assert spent(over, over_key) == (COST_NANO_USD, 0)


def test_a_socket_that_dies_in_a_turn_ends_it_as_a_broken_stream_does(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    def answers(turn: Turn) -> None:
        turn.begin()
        turn.send({"type": "response.output_text.delta", "sequence_number": 1, "output_index": 0, "delta": "Half"})
        turn.drop()

    provider.answers = answers
    with Socket(over.url, over_key.text) as socket:
        socket.create(model=MODEL, input="x")
        assert ended(socket) == "response.failed"
        provider.answers = lambda turn: turn.say("hello")
        assert socket.turn({"model": MODEL, "input": "x"})[0] == 200
    assert len(provider.turns) == 2
    assert spent(over, over_key)[1] == 0


@pytest.mark.parametrize("status", [404, 405, 426])
def test_a_provider_that_refuses_the_upgrade_is_asked_by_post_and_not_asked_again(
    start: StartGateway, provider: WebSocketProvider, status: int
) -> None:
    provider.refusal = (status, {"error": {"message": "no", "type": "x", "param": None, "code": "y"}})
    with start() as gateway, Socket(gateway.url, gateway.new_key().text) as socket:
        for _ in range(2):
            assert socket.turn({"model": MODEL, "input": "x"})[0] == 200
    assert (len(provider.upgrades), len(provider.posts)) == (1, 2)


@pytest.mark.parametrize(("status", "told"), [(401, 502), (429, 429), (503, 503)])
def test_a_refused_handshake_counts_as_a_refusal_by_post_does(
    start: StartGateway, provider: WebSocketProvider, status: int, told: int
) -> None:
    provider.refusal = (status, {"error": {"message": "no", "type": "server_error", "param": None, "code": "busy"}})
    with start() as gateway:
        key = gateway.new_key()
        with Socket(gateway.url, key.text) as socket:
            assert socket.turn({"model": MODEL, "input": "x"})[0] == told
        assert spent(gateway, key) == (0, 0)
    assert not provider.posts


def test_another_upstream_is_asked_before_the_first_event(
    store: Server, provider: WebSocketProvider, upstream: str, tmp_path: Path
) -> None:
    provider.answers = lambda turn: turn.fail(503, "overloaded")
    upstreams = {
        name: {"base_url": url, "api_keys": ["env:TEST_UPSTREAM_KEY"], "websocket": name == "first"}
        for name, url in (("first", provider.url), ("second", upstream))
    }
    sections: dict[str, Any] = {"upstreams": upstreams, "routes": [{"model": "*", "upstreams": ["first", "second"]}]}
    with running_gateway(store.url, provider.url, tmp_path, **sections) as gateway:
        key = gateway.new_key()
        with Socket(gateway.url, key.text) as socket:
            status, event = socket.turn({"model": "sim/echo", "input": "x"})
            assert (status, event["type"]) == (200, "response.completed")
        assert len(provider.turns) == 1


def test_a_message_of_16_mib_goes_by_post(start: StartGateway, provider: WebSocketProvider) -> None:
    sizes = {"server": {"max_body_bytes": 2**25, "max_text_bytes": 2**25}, "websocket": {"max_message_bytes": 2**25}}
    with start(**sizes) as gateway:
        key = gateway.new_key(credits_usd="1000")
        with Socket(gateway.url, key.text, max_size=None) as socket:
            assert socket.turn({"model": MODEL, "input": "x" * 2**24, "store": False})[0] == 200
            assert socket.turn({"model": MODEL, "input": "x" * 1000})[0] == 200
    assert (len(provider.posts), len(provider.turns)) == (1, 1)


def test_lanes_share_a_socket_and_their_events_are_told_apart(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    both = threading.Barrier(2, timeout=10)

    def answers(turn: Turn) -> None:
        turn.begin()
        both.wait()
        turn.finish(turn.fields["input"])

    provider.answers = answers
    with Socket(over.url, over_key.text) as socket:
        for lane in ("a", "b"):
            socket.create(model=MODEL, input=f"to {lane}", stream_id=lane)
        ended: dict[str, Any] = {}
        while len(ended) < 2:
            event = socket.receive()
            if event["type"] == "response.completed":
                ended[event["stream_id"]] = event["response"]["output"][0]["content"][0]["text"]
    assert ended == {"a": "to a", "b": "to b"}
    assert {turn.fields["stream_id"] for turn in provider.turns} == {"a", "b"}
    assert len({id(turn.connection) for turn in provider.turns}) == 1
    assert spent(over, over_key) == (2 * COST_NANO_USD, 0)


def test_a_provider_that_says_no_lane_is_understood_in_the_order_of_its_turns(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    in_order = threading.Lock()

    def answers(turn: Turn) -> None:
        turn.fields.pop("stream_id")
        with in_order:
            turn.say(turn.fields["input"])

    provider.answers = answers
    with Socket(over.url, over_key.text) as socket:
        for lane in ("a", "b"):
            socket.create(model=MODEL, input=f"to {lane}", stream_id=lane)
        ended: dict[str, Any] = {}
        while len(ended) < 2:
            event = socket.receive()
            if event["type"] == "response.completed":
                ended[event["stream_id"]] = event["response"]["output"][0]["content"][0]["text"]
    assert sorted(ended.values()) == ["to a", "to b"]
    assert spent(over, over_key) == (2 * COST_NANO_USD, 0)


def test_a_client_that_leaves_ends_the_upstreams_socket(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    provider.answers = lambda turn: turn.begin()
    with Socket(over.url, over_key.text) as socket:
        socket.create(model=MODEL, input="x")
        assert socket.receive()["type"] == "response.created"
    wait_until_sync(lambda: provider.open == 0, what="the upstream's socket is closed")
    wait_until_sync(lambda: spent(over, over_key)[1] == 0, what="nothing is held")


async def test_a_forward_proxy_makes_a_tunnel_for_a_socket(start: StartGateway, provider: WebSocketProvider) -> None:
    """Without TLS too: what a proxy is sent as a request it cannot upgrade."""

    def turn(gateway: RunningGateway) -> int:
        with Socket(gateway.url, gateway.new_key().text) as socket:
            return socket.turn({"model": MODEL, "input": "x"})[0]

    async with forward_proxy() as proxy:
        with start(upstream={**UPGRADES, "proxy": proxy.url}) as gateway:
            assert await asyncio.to_thread(turn, gateway) == 200
        assert [head.split(b" ")[0] for head in proxy.heads] == [b"CONNECT"]
    assert len(provider.turns) == 1


def test_other_state_goes_over_sockets_too_whole_and_unsteered(
    start: StartGateway, provider: WebSocketProvider
) -> None:
    with start(route={"state": "gateway"}) as gateway, Socket(gateway.url, gateway.new_key().text) as socket:
        first = socket.turn({"model": MODEL, "input": "one"})[1]["response"]["id"]
        assert socket.turn({"model": MODEL, "input": "two", "previous_response_id": first})[0] == 200
        provider.answers = lambda turn: turn.begin()
        socket.create(model=MODEL, input="three")
        running = socket.receive()["response"]["id"]
        socket.send({"type": "response.steer", "previous_response_id": running, "input": "x"})
        while (event := socket.receive())["type"] != "response.steer.failed":
            continue
        assert event["error"]["code"] == "steering_not_supported"
    sent = provider.turns[1].fields
    assert [item["content"][0]["text"] for item in sent["input"]] == ["one", "hello", "two"]
    assert "previous_response_id" not in sent
    assert not provider.steers
