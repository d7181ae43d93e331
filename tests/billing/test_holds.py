"""Nobody begins more work than the balance pays for, whatever the body hides."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.billing.conftest import Serving
from tests.billing.test_bills import ask, spent
from tests.support.answering_provider import Answer, AnsweringProvider, response
from tests.support.gateway import NewKey, RunningGateway
from tests.support.waiting import wait_until_sync

PRICE = {"input": "1.00", "cached_input": "0.10", "output": "10.00"}
USAGE = {"input_tokens": 100_000, "output_tokens": 10, "total_tokens": 100_010}
COST = 100_100_000
CONTEXT = {"prices": {"*": PRICE | {"context_tokens": 100_000}}}
ROUTE = {"route": {"reserve_input_tokens": 100_000}}
USED = {"reserve_input_tokens": 0}


def message(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "input_text", "text": "Read it."}, part]}]


HIDDEN = [
    ("previous_response_id", {"previous_response_id": "resp_1"}, {"prices": {"*": PRICE}}),
    ("conversation", {"conversation": "conv_1"}, CONTEXT),
    ("prompt", {"prompt": {"id": "pmpt_1"}}, CONTEXT),
    ("file_id", {"input": message({"type": "input_file", "file_id": "file_1"})}, CONTEXT),
    ("file_url", {"input": message({"type": "input_file", "file_url": "https://example.org/a.pdf"})}, ROUTE),
    ("image file", {"input": message({"type": "input_image", "file_id": "file_1"})}, ROUTE),
    ("item_reference", {"input": [{"type": "item_reference", "id": "msg_1"}]}, ROUTE),
    ("web_search", {"tools": [{"type": "web_search"}]}, ROUTE | {"prices": {"*": PRICE}}),
    ("file_search", {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, CONTEXT),
    ("remote mcp", {"tools": [{"type": "mcp", "server_url": "https://example.org"}]}, CONTEXT),
    ("nothing configured", {"input": message({"type": "input_file", "file_id": "file_1"})}, {}),
]


def twenty_at_once(
    gateway: RunningGateway, provider: AnsweringProvider, key: NewKey, **fields: Any
) -> list[httpx.Response]:
    gate = threading.Event()
    provider.respond = lambda _: Answer(response(USAGE), wait=gate)
    before = len(provider.requests)
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(ask, gateway, key, max_output_tokens=50, **fields) for _ in range(20)]
        wait_until_sync(
            lambda: sum(one.done() for one in answers) + len(provider.requests) - before == 20,
            what="all are refused or at work",
        )
        gate.set()
    return [one.result() for one in answers]


@pytest.mark.parametrize(("fields", "sections"), [row[1:] for row in HIDDEN], ids=[row[0] for row in HIDDEN])
def test_what_a_body_does_not_show_is_held(serving: Serving, fields: dict[str, Any], sections: dict[str, Any]) -> None:
    with serving(lambda _: Answer(response(USAGE)), **sections) as (gateway, provider):
        key = gateway.new_key(credits_usd="0.3500")
        assert ask(gateway, key, max_output_tokens=50).status_code == 200  # resp_1
        assert spent(gateway, key) == COST  # leaves 0.2499
        found = twenty_at_once(gateway, provider, key, **fields)
        assert sorted(one.status_code for one in found) == [200] * 2 + [402] * 18
        assert spent(gateway, key) == 3 * COST
        assert gateway.balance(key).available >= 0


def test_an_ordinary_request_holds_no_reserve(serving: Serving) -> None:
    with serving(lambda _: Answer(response(USAGE))) as (gateway, provider):
        key = gateway.new_key(credits_usd="0.0123")
        used = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
        provider.respond = lambda _: Answer(response(used))
        tools = [{"type": "function", "name": "f", "parameters": {"properties": {"file_id": {"type": "string"}}}}]
        assert ask(gateway, key, tools=tools, max_output_tokens=50).status_code == 200
        assert ask(gateway, key, metadata={"file_id": "x"}, max_output_tokens=50).status_code == 200
        text = 'the words "file_id" and "item_reference"'
        assert ask(gateway, key, input=text, max_output_tokens=50).status_code == 200


@pytest.mark.parametrize(
    ("fields", "calls"),
    [
        ({}, 10),
        ({"max_tool_calls": 3}, 3),
        ({"tools": [{"type": "web_search", "max_uses": 4}]}, 4),
        ({"tools": [{"type": "web_search_preview"}, {"type": "function", "name": "f"}]}, 10),
    ],
)
def test_fees_of_hosted_tools_are_held_as_often_as_they_may_be_called(
    serving: Serving, fields: dict[str, Any], calls: int
) -> None:
    row = PRICE | {"per_call": {"web_search": "0.01"}}
    gate = threading.Event()
    with serving(lambda _: Answer(response(USAGE), wait=gate), prices={"*": row}, route=USED) as (gateway, provider):
        key = gateway.new_key()
        asked = {"tools": [{"type": "web_search"}], "max_output_tokens": 100, **fields}
        with ThreadPoolExecutor(1) as pool:
            pool.submit(ask, gateway, key, **asked)
            wait_until_sync(lambda: len(provider.requests) == 1, what="it is at work")
            held = gateway.balance(key).held
            gate.set()
        output = 100 * 10_000
        assert calls * 10_000_000 + output < held <= calls * 10_000_000 + output + len(provider.requests[0].raw) * 1_000


def test_a_cost_over_its_hold_is_posted_whole_and_named(serving: Serving) -> None:
    usage = {"input_tokens": 10, "output_tokens": 100_000, "total_tokens": 100_010}
    with serving(lambda _: Answer(response(usage))) as (gateway, _):
        key = gateway.new_key()
        assert ask(gateway, key, max_output_tokens=50).status_code == 200
        assert spent(gateway, key) == 1_000_010_000
        text = httpx.get(f"{gateway.url}/metrics").text
        assert 'gateway_overruns_total{model="a/b"} 1.0' in text
