"""The model that answered sets the price where its route says so; the most expensive one that may answer is held."""

from typing import Any

import httpx
import pytest

from tests.billing.conftest import Serving
from tests.billing.test_bills import admin, ask, spent
from tests.support.answering_provider import Answer, response, streamed

USAGE = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
ROWS = {
    "router/auto": {"input": "1", "output": "10"},
    "router/small": {"input": "0.1", "output": "1"},
    "router/large": {"input": "5", "output": "50"},
    "other/huge": {"input": "20", "output": "100"},
    "*": {"input": "900", "output": "900"},
}
ANSWERED = {"price_by": "answered"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("route", "answered", "expected", "unpriced"),
    [
        (ANSWERED, "small", 200_000, ""),
        (ANSWERED, "router/large", 10_000_000, ""),
        (ANSWERED, "ROUTER/Large-2026-11-01", 10_000_000, ""),
        (ANSWERED, "large-20261101", 10_000_000, ""),
        (ANSWERED, "other/huge", 30_000_000, ""),
        (ANSWERED, "auto", 2_000_000, ""),
        (ANSWERED, "nobody/knows", 2_000_000, "model:nobody/knows"),
        (ANSWERED, None, 2_000_000, ""),
        (ANSWERED, 7, 2_000_000, ""),
        ({}, "router/large", 2_000_000, ""),
    ],
)
def test_the_model_that_answers_is_charged_where_the_route_says_so(
    serving: Serving, stream: bool, route: dict[str, Any], answered: object, expected: int, unpriced: str
) -> None:
    whole = response(USAGE, model=answered)
    given_answer = Answer(events=streamed(whole, "Hi")) if stream else Answer(whole)
    with serving(lambda _: given_answer, prices=ROWS, route=route) as (gateway, _):
        key = gateway.new_key()
        found = ask(gateway, key, model="router/auto", stream=stream, max_output_tokens=100)
        assert spent(gateway, key) == expected
        bill = admin(gateway, f"/requests/{found.headers['x-request-id']}")["entry"]["bill"]
        assert bill["unpriced"] == [unpriced] * bool(unpriced)
        told = expected != 2_000_000
        assert ("model" in bill["facts"]) == told
        counted = f'gateway_unpriced_usage_total{{model="router/auto",what="{unpriced}"}}'
        assert (counted in httpx.get(f"{gateway.url}/metrics").text) == bool(unpriced)


def test_what_is_held_is_the_most_expensive_model_that_may_answer(serving: Serving) -> None:
    with serving(lambda _: Answer(response(USAGE)), prices=ROWS, route=ANSWERED) as (gateway, _):
        for credits_usd, status in (("0.0099", 402), ("0.0105", 200)):  # 100 tokens of the hugest, and some input
            key = gateway.new_key(credits_usd=credits_usd)
            assert ask(gateway, key, model="router/small", max_output_tokens=100).status_code == status
