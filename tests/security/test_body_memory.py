"""The large bodies that one worker holds at once are bounded, also those of clients with a key."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.proxy.body_budget import BodyBudget
from gateway.proxy.relay import Relay
from tests.support.gateway import NewKey, RunningGateway, StartGateway
from tests.support.sockets import connected, head_of
from tests.support.waiting import wait_until_sync

BOUND = 1024 * 1024
SERVER = {"port": 0, "max_bodies_bytes": BOUND, "max_body_bytes": BOUND}
UPSTREAM = {"drain_timeout_s": 0.1}  # how long the answer that does not come is waited for after its client has left


def body_of(size_bytes: int, model: str = "sim/plain") -> bytes:
    return json.dumps({"model": model, "stream": True, "input": "x" * size_bytes}).encode()


def held_bytes(gateway: RunningGateway) -> int:
    return gateway.services.handler.snapshot.body_memory.held_bytes


def relays(gateway: RunningGateway) -> list[Relay]:
    return list(gateway.services.handler.running.values())


def is_held(relay: Relay) -> bool:
    return bool(relay.exchange.admitted.request.body)


def ask(gateway: RunningGateway, key: NewKey, body: bytes, **headers: str) -> httpx.Response:
    with gateway.http() as http:
        return http.post(
            "/v1/responses",
            content=body,
            headers={"authorization": f"Bearer {key.text}", "content-type": "application/json", **headers},
        )


@contextlib.contextmanager
def held_body(gateway: RunningGateway, key: NewKey, size_bytes: int) -> Iterator[None]:
    """A request whose body is held, since its answer does not come."""
    body = body_of(size_bytes, "sim/stall-head")
    with connected(gateway) as (client,):
        client.sendall(head_of("POST", "/v1/responses", key.text, f"content-length: {len(body)}") + body)
        wait_until_sync(lambda: held_bytes(gateway) == len(body), what="the body is held")
        yield


def test_a_large_body_beyond_what_is_held_is_refused_and_small_ones_are_served(start: StartGateway) -> None:
    with start(server=SERVER, upstream=UPSTREAM) as gateway:
        key = gateway.new_key()
        with held_body(gateway, key, 700_000):
            refused = ask(gateway, key, body_of(400_000))
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_bodies")
            assert refused.headers["retry-after"] == "1"
            assert ask(gateway, key, body_of(10_000)).status_code == 200
            assert ask(gateway, key, body_of(200_000)).status_code == 200
        wait_until_sync(lambda: held_bytes(gateway) == 0, what="nothing is held")
        assert ask(gateway, key, body_of(1_000_000)).status_code == 200


def test_a_body_of_unknown_length_counts_as_the_largest_until_it_is_read(start: StartGateway) -> None:
    with start(server=SERVER) as gateway, connected(gateway) as (client,):
        key = gateway.new_key()
        client.sendall(head_of("POST", "/v1/responses", key.text, "transfer-encoding: chunked") + b"5\r\n     \r\n")
        wait_until_sync(lambda: held_bytes(gateway) == BOUND, what="it is counted")
        client.close()
        wait_until_sync(lambda: held_bytes(gateway) == 0, what="its client has left")


@pytest.mark.parametrize("kind", ["answered", "refused", "compressed", "not JSON", "unknown key"])
def test_whatever_becomes_of_a_request_nothing_stays_held(start: StartGateway, kind: str) -> None:
    with start(server=SERVER) as gateway:
        key = gateway.new_key()
        match kind:
            case "answered":
                assert ask(gateway, key, body_of(500_000)).status_code == 200
            case "refused":
                assert ask(gateway, key, body_of(500_000, "")).status_code == 400
            case "compressed":
                assert (
                    ask(gateway, key, gzip.compress(body_of(3_000)), **{"content-encoding": "gzip"}).status_code == 200
                )
            case "not JSON":
                assert ask(gateway, key, b"x" * 500_000).status_code == 400
            case _:
                gateway.revoke(key)
                assert ask(gateway, key, body_of(500_000)).status_code == 401
        wait_until_sync(lambda: held_bytes(gateway) == 0, what="nothing is held")


def test_an_open_stream_holds_nothing_of_its_body(start: StartGateway) -> None:
    with start(server=SERVER) as gateway, connected(gateway) as (client,):
        key, body = gateway.new_key(), body_of(900_000, "sim/stall-3")
        client.sendall(head_of("POST", "/v1/responses", key.text, f"content-length: {len(body)}") + body)
        wait_until_sync(lambda: [is_held(relay) for relay in relays(gateway)] == [False], what="the body is freed")
        assert held_bytes(gateway) == 0
        assert ask(gateway, key, body_of(900_000)).status_code == 200, "the memory is free for others"
        assert len(relays(gateway)) == 1, "the stream is still open"


@given(st.lists(st.integers(0, 200)), st.randoms())
def test_what_is_held_is_never_more_than_the_bound_but_for_one_body_alone(
    sizes: list[int], source: random.Random
) -> None:
    memory, held = BodyBudget(100), list[int]()
    for size in sizes:
        try:
            memory.take(size)
        except GatewayError as refused:
            assert refused.code == "too_many_bodies"  # noqa: PT017 - the others were taken
            assert sum(held) + size > 100
        else:
            held.append(size)
        assert memory.held_bytes == sum(held)
        assert memory.held_bytes <= max(100, max(held, default=0))
        if held and source.random() < 0.5:
            memory.give_back(held.pop(source.randrange(len(held))))
