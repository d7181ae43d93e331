"""What a request is charged: from the provider's answer to the journal, the admin API and the verification."""

import json
from typing import Any

import httpx
import pytest

from gateway.store.keyspace import TeamKeys
from tests.billing.conftest import Serving
from tests.support.answering_provider import Answer, response, streamed
from tests.support.gateway import ADMIN_KEY, NewKey, RunningGateway
from tests.support.journals import journal_entries
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

SEARCHES = [{"type": "web_search_call", "id": f"ws_{number}", "status": "completed"} for number in range(2)]
USAGE = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
PRICES = {
    "*": {
        "input": "1",
        "cached_input": "0.1",
        "output": "10",
        "per_call": {"web_search": "0.01"},
        "tiers": {"priority": {"factor": "2"}},
    }
}


def ask(gateway: RunningGateway, key: NewKey, **fields: Any) -> httpx.Response:
    with gateway.http(key) as http:
        return http.post("/v1/responses", json={"model": "a/b", "input": "Hello", **fields})


def spent(gateway: RunningGateway, key: NewKey) -> int:
    wait_until_sync(lambda: gateway.balance(key).held == 0, what="the request is settled")
    return gateway.balance(key).spent


def admin(gateway: RunningGateway, path: str) -> Any:
    return httpx.get(f"{gateway.url}/admin/v1{path}", headers={"authorization": f"Bearer {ADMIN_KEY}"}).json()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("usage", "answer", "expected"),
    [
        (USAGE, {}, 2_000_000),
        (USAGE, {"output": SEARCHES}, 22_000_000),
        (USAGE, {"service_tier": "priority"}, 4_000_000),
        (USAGE | {"input_tokens_details": {"cached_tokens": 500}}, {}, 1_550_000),
        (USAGE | {"output_tokens": 100, "output_tokens_details": {"reasoning_tokens": 200}}, {}, 4_000_000),
        (USAGE | {"tool_usage": {"web_search": {"num_requests": 5}}}, {"output": SEARCHES}, 52_000_000),
    ],
)
def test_whole_answers_and_streams_are_charged_alike(
    serving: Serving, stream: bool, usage: dict[str, Any], answer: dict[str, Any], expected: int
) -> None:
    whole = response(usage, **answer)
    given = Answer(events=streamed(whole, "Hi")) if stream else Answer(whole)
    with serving(lambda _: given, prices=PRICES) as (gateway, _):
        key = gateway.new_key()
        assert ask(gateway, key, stream=stream).status_code == 200
        assert spent(gateway, key) == expected


def test_the_journal_keeps_how_a_cost_came_about(serving: Serving) -> None:
    usage = USAGE | {"output_tokens_details": {"reasoning_tokens": 30}}
    whole = response(usage, output=[*SEARCHES, {"type": "x_search_call"}], service_tier="priority")
    with serving(lambda _: Answer(whole), prices=PRICES) as (gateway, provider):
        key = gateway.new_key()
        charged = ask(gateway, key).headers["x-request-id"]
        provider.respond = lambda _: Answer(response(USAGE))
        plain = ask(gateway, key).headers["x-request-id"]
        assert spent(gateway, key) == 24_000_000 + 2_000_000
        bill = admin(gateway, f"/requests/{charged}")["entry"]["bill"]
        assert [tuple(line.values()) for line in bill["lines"]] == [
            ("input", "1000", "1M tokens", "2", "0.002"),
            ("output", "70", "1M tokens", "20", "0.0014"),
            ("reasoning", "30", "1M tokens", "20", "0.0006"),
            ("web_search", "2", "call", "0.01", "0.02"),
        ]
        assert (bill["facts"], bill["unpriced"]) == ({"service_tier": "priority"}, ["tool:x_search"])
        simple = admin(gateway, f"/requests/{plain}")["entry"]["bill"]
        assert [tuple(line.values()) for line in simple["lines"]] == [
            ("input", "1000", "1M tokens", "1", "0.001"),
            ("output", "100", "1M tokens", "10", "0.001"),
        ]
        assert simple["price"] == bill["price"]
        assert (
            'gateway_unpriced_usage_total{model="a/b",what="tool:x_search"} 1.0'
            in httpx.get(f"{gateway.url}/metrics").text
        )


def test_the_books_are_checked_against_the_bills(serving: Serving, store: Server) -> None:
    with serving(lambda _: Answer(response(USAGE, output=SEARCHES)), prices=PRICES) as (gateway, _):
        key = gateway.new_key()
        ask(gateway, key)
        assert spent(gateway, key) == 22_000_000
        path = f"/ledger/verify?team={key.team.id}"
        assert admin(gateway, path)["data"][0]["differences"] == []
        fields = journal_entries(store, key.team.id)[-1]
        wrong = json.loads(fields["bill"])
        wrong["lines"][-1][1] = "3"
        fields = {**fields, "bill": json.dumps(wrong), "amount": "0"}
        store.run("XADD", TeamKeys(key.team.id).journal, "*", *[part for pair in fields.items() for part in pair])
        found = admin(gateway, path)["data"][0]["differences"]
        assert ("cost", 32_000_000, 0) in [(one["name"], one["expected"], one["found"]) for one in found]
