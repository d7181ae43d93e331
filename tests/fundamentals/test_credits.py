"""Credits: what is reserved before a request, what it costs after, and that no race gets round it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from gateway.billing.cost import cost_of_usage_nano_usd
from gateway.billing.hold import Work, worst_case
from gateway.billing.money import format_usd, parse_usd
from gateway.protocol.quantities import Usage
from gateway.protocol.token_estimates import estimate_input_tokens
from tests.fundamentals.raw import RawProvider
from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.journals import journal_entries
from tests.support.prices import price_row
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

PRICE = price_row(*(parse_usd(usd) for usd in ("1", "0.1", "10")))  # as tests/support/gateway.py sets it
BODY = b'{"model":"o4-mini","input":"Hello","max_output_tokens":1000}'
HOLD = worst_case(PRICE, Work(estimate_input_tokens(BODY), 1000), 0, 0).amount_nano_usd
ANSWER = (
    b'{"id":"resp_1","object":"response","status":"completed","output":[],'
    b'"usage":{"input_tokens":12,"output_tokens":30,"total_tokens":42}}'
)
COST = cost_of_usage_nano_usd(PRICE, Usage(12, 0, 30, 0, 42, None), 0)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)


@pytest.fixture
def provider() -> Iterator[RawProvider]:
    with RawProvider.serving() as raw:
        yield raw


@pytest.fixture
def slow(provider: RawProvider, store: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway whose provider answers when the test says so."""
    with running_gateway(store.url, provider.url, tmp_path_factory.mktemp("credits")) as running:
        yield running


def post(gateway: RunningGateway, key: NewKey) -> httpx.Response:
    with gateway.http(key) as http:
        return http.post("/v1/responses", content=BODY, headers={"content-type": "application/json"})


def journal(store: Server, key: NewKey) -> list[dict[str, str]]:
    """The team's movements, the oldest first."""
    return journal_entries(store, key.team.id)


def test_twenty_at_once_on_credits_for_five(slow: RunningGateway, provider: RawProvider, store: Server) -> None:
    key = slow.new_key(credits_usd=format_usd(5 * HOLD))
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(post, slow, key) for _ in range(20)]
        wait_until_sync(lambda: sum(one.done() for one in answers) == 15, what="all that cannot be paid are refused")
        assert provider.received <= 5
        balance = slow.balance(key)
        assert (balance.available, balance.held, balance.spent) == (0, 5 * HOLD, 0)
        provider.answer(HEAD, [ANSWER])
    found = [one.result() for one in answers]
    assert sorted(one.status_code for one in found) == [200] * 5 + [402] * 15
    assert provider.received == 5

    error = next(one for one in found if one.status_code == 402).json()["error"]
    assert (error["code"], error["type"], error["limit"]) == ("insufficient_quota", "insufficient_credits", "credits")
    assert (error["scope"], error["limit_source"]) == ("team", "gateway")
    assert error["required_usd"] == format_usd(HOLD)
    assert parse_usd(error["available_usd"]) < HOLD
    assert error["affordable_output_tokens"] < 1000

    balance = slow.settled_balance(key)
    assert (balance.held, balance.spent) == (0, 5 * COST)
    assert balance.granted == balance.available + balance.held + balance.spent
    entries = journal(store, key)
    assert [entry["type"] for entry in entries] == ["grant"] + ["settle"] * 5
    assert sum(int(entry["amount"]) for entry in entries) == balance.available
    assert int(entries[-1]["balance"]) == balance.available


def test_what_is_said_to_be_affordable_is(gateway: RunningGateway) -> None:
    key = gateway.new_key(credits_usd=format_usd(HOLD // 2))
    refused = post(gateway, key).json()["error"]
    affordable = refused["affordable_output_tokens"]
    with gateway.http(key) as http:
        for tokens, status in [(affordable + 100, 402), (affordable, 200)]:
            fields = {"model": "o4-mini", "input": "Hello", "max_output_tokens": tokens}
            assert http.post("/v1/responses", json=fields).status_code == status


def test_a_request_costs_what_its_usage_says(gateway: RunningGateway, store: Server) -> None:
    key = gateway.new_key(credits_usd="1")
    with gateway.sdk(key) as client:
        usage = client.responses.create(model="sim/cached", input="Hello, dear and long-winded world!").usage
    assert usage is not None
    assert usage.input_tokens_details.cached_tokens > 0
    cached, details = usage.input_tokens_details.cached_tokens, usage.output_tokens_details
    cost = cost_of_usage_nano_usd(
        PRICE,
        Usage(usage.input_tokens, cached, usage.output_tokens, details.reasoning_tokens, usage.total_tokens, None),
        0,
    )
    assert gateway.settled_balance(key).spent == cost
    assert journal(store, key)[-1]["by"] == "usage"


@pytest.mark.parametrize("model", ["sim/error-500", "sim/error-400", "sim/html", "sim/error-200"])
def test_what_the_provider_did_not_answer_costs_nothing(gateway: RunningGateway, store: Server, model: str) -> None:
    key = gateway.new_key(credits_usd="1")
    with gateway.http(key) as http:
        assert http.post("/v1/responses", json={"model": model, "input": "Hello"}).status_code >= 400
    assert gateway.settled_balance(key).available == parse_usd("1")
    assert journal(store, key)[-1]["type"] == "void"


@pytest.mark.parametrize("model", ["sim/no-usage", "sim/cut-8"])
def test_an_answer_without_usage_is_estimated_never_free(gateway: RunningGateway, store: Server, model: str) -> None:
    key = gateway.new_key(credits_usd="1")
    with gateway.http(key) as http:
        assert http.post("/v1/responses", json={"model": model, "input": "Hello", "stream": True}).status_code == 200
    assert gateway.settled_balance(key).spent > 0
    assert journal(store, key)[-1]["by"] == "estimate"


def test_an_unmetered_team_is_charged_but_never_refused_for_its_balance(gateway: RunningGateway) -> None:
    key = gateway.new_key(credits_usd="0", metered=False)
    assert post(gateway, key).status_code == 200
    assert gateway.settled_balance(key).available < 0
