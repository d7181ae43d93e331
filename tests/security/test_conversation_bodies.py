"""The bodies of calls of conversations are bounded as those of model requests are, and what they add in one step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.security.test_body_memory import BOUND, SERVER, UPSTREAM, ask, body_of, held_body, held_bytes
from tests.security.test_loop_stays_free import answered_meanwhile
from tests.support.answering_provider import Answer, AnsweringProvider, response
from tests.support.gateway import NewKey, RunningGateway, StartGateway
from tests.support.sockets import connected, head_of
from tests.support.waiting import wait_until_sync

KEEPS = {"state": "gateway"}
MAX_ITEMS = 1000
PATHS = ("", "/{id}", "/{id}/items")


def conversation(http: httpx.Client) -> str:
    made: str = http.post("/v1/conversations", json={}).json()["id"]
    return made


@pytest.fixture
def gateway(start: StartGateway) -> Iterator[RunningGateway]:
    with start(server=SERVER, upstream=UPSTREAM, route=KEEPS) as gateway:
        yield gateway


@pytest.fixture
def key(gateway: RunningGateway) -> NewKey:
    return gateway.new_key()


@pytest.fixture
def http(gateway: RunningGateway, key: NewKey) -> Iterator[httpx.Client]:
    with gateway.http(key) as http:
        yield http


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


@pytest.mark.parametrize("path", PATHS)
def test_a_large_body_counts_until_it_is_done_with(
    gateway: RunningGateway, key: NewKey, http: httpx.Client, path: str
) -> None:
    where = "/v1/conversations" + path.format(id=conversation(http))
    with connected(gateway) as (client,):
        client.sendall(head_of("POST", where, key.text, "content-length: 700000") + b"{")
        wait_until_sync(lambda: held_bytes(gateway) == 700_000, what="it is counted")
        assert ask(gateway, key, body_of(400_000)).json()["error"]["code"] == "too_many_bodies"
        assert ask(gateway, key, body_of(10_000)).status_code == 200
    wait_until_sync(lambda: held_bytes(gateway) == 0, what="its client has left")


@pytest.mark.parametrize("path", PATHS)
def test_a_large_body_beyond_what_is_held_is_refused(
    gateway: RunningGateway, key: NewKey, http: httpx.Client, path: str
) -> None:
    where = "/v1/conversations" + path.format(id=conversation(http))
    with held_body(gateway, key, 700_000):
        large = http.post(where, json={"metadata": {}, "items": [{"role": "user", "content": "x" * 400_000}]})
        assert refusal(large)[:2] == (503, "too_many_bodies")
        small = {"metadata": {}, "items": [{"role": "user", "content": "x"}]}
        assert http.post(where, json=small).status_code == 200
        many = (b" " * 10 for _ in range(3))  # of unknown length: as much as the largest
        assert http.post(where, content=many).status_code == 503
    wait_until_sync(lambda: held_bytes(gateway) == 0, what="nothing is held")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"items":[{"role":"user","content":"%b"}]}' % (b"x" * 500_000), 200, ""),
        (b"x" * 500_000, 400, "invalid_json"),
        (b"[%b]" % (b" " * 500_000), 400, "invalid_json"),
        (b'{"metadata":[]%b}' % (b" " * 500_000), 400, "invalid_item"),
        (b" " * (BOUND + 1), 413, "body_too_large"),
        (b'{"items":[%b0]}' % (b"[]," * 250_000), 413, "body_too_large"),
    ],
    ids=["good", "no JSON", "no object", "refused", "too long", "too many values"],
)
def test_whatever_becomes_of_a_call_nothing_stays_held(
    gateway: RunningGateway, http: httpx.Client, body: bytes, status: int, code: str
) -> None:
    answer = http.post("/v1/conversations", content=body)
    assert (answer.status_code, answer.json().get("error", {}).get("code", "")) == (status, code)
    wait_until_sync(lambda: held_bytes(gateway) == 0, what="nothing is held")


def test_a_large_item_is_listed_as_it_was_sent(http: httpx.Client) -> None:
    text = "\ud83d \u00e9 0123456789" * 20_000  # with half of a character: it is written as the escape that it came as
    items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}]
    where = f"/v1/conversations/{conversation(http)}/items"
    added = http.post(where, content=json.dumps({"items": items})).json()["data"]
    assert added[0]["content"] == items[0]["content"]
    assert http.get(where).json()["data"] == added
    assert http.get(f"{where}/{added[0]['id']}").json() == added[0]


def test_others_are_served_while_a_large_body_of_a_conversation_is_looked_at(start: StartGateway) -> None:
    body = b'{"items":[{"role":"user","content":"%b"}]}' % (b"\\u0041" * 2_000_000)
    with start(server={"port": 0, "max_text_bytes": 32 * 1024 * 1024}, route=KEEPS) as gateway:
        count, status = answered_meanwhile(gateway, gateway.new_key(), body, "/v1/conversations")
    assert status == 200
    assert count > 20, "of hundreds; on the loop it would be up to four"


@pytest.mark.parametrize("number", [MAX_ITEMS, MAX_ITEMS + 1])
def test_the_items_of_one_step_are_bounded(http: httpx.Client, number: int) -> None:
    items = [{"role": "user", "content": "x"}] * number
    where = conversation(http)
    for path in ("/v1/conversations", f"/v1/conversations/{where}/items"):
        answer = http.post(path, json={"items": items})
        if number <= MAX_ITEMS:
            assert answer.status_code == 200
        else:
            assert refusal(answer) == (400, "invalid_item", "items")


@pytest.mark.parametrize("fields", [{}, {"background": True}], ids=["at once", "in the background"])
def test_a_turn_that_adds_too_many_items_is_refused_before_it_costs_anything(
    start: StartGateway, fields: dict[str, Any]
) -> None:
    with (
        AnsweringProvider.serving(lambda _: Answer(response({"input_tokens": 1, "output_tokens": 1}))) as provider,
        start(upstream={"base_url": provider.url}, route=KEEPS) as gateway,
        gateway.http(key := gateway.new_key()) as http,
    ):
        items = [{"role": "user", "content": "x"}] * (MAX_ITEMS + 1)
        turn = {"model": "m", "input": items, "conversation": conversation(http), **fields}
        assert refusal(http.post("/v1/responses", json=turn)) == (400, "invalid_item", "input")
        assert provider.requests == []
        assert gateway.balance(key).spent == 0
        assert http.post("/v1/responses", json={**turn, "input": items[:2]}).status_code == 200
