"""Where a turn cannot be stored its client is told so, it is settled all the same, and the operator sees it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.verification import verify
from tests.state.answers import COST_NANO_USD, MODEL, answer
from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.outages import OUTAGES, break_by
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.servers import Server, durable_valkey_server
from tests.support.waiting import wait_until_sync

QUICK = {"timeout_s": 0.5, "breaker_open_s": 0.1}


@pytest.fixture
def server() -> Iterator[Server]:
    with durable_valkey_server() as server:
        yield server


def unstored(gateway: RunningGateway) -> int:
    counts = gateway.run(gateway.services.metrics_collector.total())["gateway_responses_unstored_total"]
    return int(str(counts[()]))


def is_settled(gateway: RunningGateway, key: NewKey) -> bool:
    verified = gateway.run(verify(gateway.services.store, key.team.id))
    balance = gateway.balance(key)
    return not balance.held and balance.spent == COST_NANO_USD and verified.differences == ()


def shown_end(text: str, *, stream: bool) -> dict[str, Any]:
    if not stream:
        found: dict[str, Any] = json.loads(text)
        return found
    events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
    assert events[-1]["type"] == "response.completed"
    response: dict[str, Any] = events[-1]["response"]
    return response


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", OUTAGES)
def test_a_store_that_fails_in_mid_turn_costs_the_client_its_chain_and_nothing_else(
    server: Server, provider: PostOnlyProvider, tmp_path: Path, how: str, stream: bool
) -> None:
    log = io.StringIO()
    released = threading.Event()
    with running_gateway(
        server.url, provider.url, tmp_path, route={"state": "gateway"}, store=QUICK, log_to=log
    ) as gateway:
        key = gateway.new_key()
        calls = len(provider.received)
        provider.next(replace(answer("kept", "resp_unstored"), released=released, shown=2 if stream else 0))
        got: list[str] = []

        def ask() -> None:
            with gateway.http(key) as client:
                got.append(client.post("/v1/responses", json={"model": MODEL, "input": "x", "stream": stream}).text)

        asking = threading.Thread(target=ask)
        asking.start()
        provider.wait_for_calls(calls + 1)
        if stream:
            wait_until_sync(lambda: bool(gateway.services.handler.running), what="the stream has begun")
        mend = break_by(server, how)
        released.set()
        asking.join(20)
        response = shown_end(got[0], stream=stream)
        assert (response["store"], response["output"][0]["content"][0]["text"]) == (False, "kept")
        assert "response_not_stored" in log.getvalue()
        mend()
        wait_until_sync(lambda: gateway.services.store.available, what="the store is back")
        wait_until_sync(lambda: is_settled(gateway, key), what="the turn is settled, once")
        assert unstored(gateway) >= 1
        with gateway.http(key) as client:
            again = {"model": MODEL, "input": "x", "previous_response_id": response["id"]}
            assert client.post("/v1/responses", json=again).status_code == 400, log.getvalue()


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_beyond_the_bound_is_shown_whole_and_not_stored(
    server: Server, provider: PostOnlyProvider, tmp_path: Path, stream: bool
) -> None:
    words = " ".join(str(number) for number in range(5000))
    with running_gateway(
        server.url, provider.url, tmp_path, route={"state": "gateway"}, state={"max_response_bytes": 2048}
    ) as gateway:
        key = gateway.new_key()
        provider.next(answer(words, "resp_large"))
        with gateway.http(key) as client:
            got = client.post("/v1/responses", json={"model": MODEL, "input": "x", "stream": stream})
            response = shown_end(got.text, stream=stream)
            assert (response["store"], response["output"][0]["content"][0]["text"]) == (False, words)
            assert client.get(f"/v1/responses/{response['id']}").status_code == 404
        wait_until_sync(lambda: is_settled(gateway, key), what="the turn is settled")
        assert unstored(gateway) == 1


def test_a_conversation_that_is_full_keeps_the_turn_out_and_says_so(
    server: Server, provider: PostOnlyProvider, tmp_path: Path
) -> None:
    words = " ".join(str(number) for number in range(450))
    with running_gateway(
        server.url, provider.url, tmp_path, route={"state": "gateway"}, state={"max_response_bytes": 2048}
    ) as gateway:
        key = gateway.new_key()
        with gateway.http(key) as client:
            made = client.post("/v1/conversations", json={}).json()
            for expected in (True, False):
                provider.next(answer(words, f"resp_full_{expected}"))
                body = {"model": MODEL, "input": "x", "conversation": made["id"]}
                got = client.post("/v1/responses", json=body)
                assert got.status_code == 200
                assert got.json()["store"] is expected
            assert len(client.get(f"/v1/conversations/{made['id']}/items").json()["data"]) == 2
