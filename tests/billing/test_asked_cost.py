"""The upstream's own cost: asked for where the operator wants it, and told of where it was promised and is missing."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.billing.conftest import Serving
from tests.billing.test_bills import ask, spent
from tests.support.answering_provider import Answer, AnsweringProvider, Request, response, streamed
from tests.support.gateway import NewKey, RunningGateway

USAGE = {"input_tokens": 10, "output_tokens": 10, "total_tokens": 20}
COST = {**USAGE, "cost": 0.0123}
ASKED = {"include": True}
OPTIONS: dict[str, Any] = {"route": {"cost_source": "upstream"}, "upstream": {"ask_for_cost": True}}
CHAT = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}


def chat_answer(usage: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hi"}
    return {"id": "1", "object": "chat.completion", "choices": [{"message": message, "finish_reason": "stop"}]} | {
        "usage": usage
    }


def where_asked(request: Request) -> Answer:
    """A router that says what a request costs only if it is asked to."""
    usage: dict[str, Any] = CHAT if "chat" in request.path else USAGE
    if request.fields.get("usage") == ASKED:
        usage = usage | {"cost": 0.0123}
    if "chat" in request.path:
        return Answer(chat_answer(usage))
    whole = response(usage)
    return Answer(events=streamed(whole, "Hi")) if request.fields.get("stream") else Answer(whole)


@pytest.mark.parametrize("stream", [False, True])
def test_the_cost_is_asked_for_and_charged(serving: Serving, stream: bool) -> None:
    with serving(where_asked, **OPTIONS) as (gateway, provider):
        key = gateway.new_key()
        assert ask(gateway, key, stream=stream, max_output_tokens=50).status_code == 200
        assert provider.bodies == [
            {"model": "a/b", "input": "Hello", "stream": stream, "max_output_tokens": 50, "usage": ASKED}
        ]
        assert spent(gateway, key) == 12_300_000


@pytest.mark.parametrize("said", [None, {}, {"include": None}, {"include": False}, {"include": True}, "all", []])
def test_what_the_caller_says_stays(serving: Serving, said: Any) -> None:
    with serving(where_asked, **OPTIONS) as (gateway, provider):
        assert ask(gateway, gateway.new_key(), usage=said).status_code == 200
        assert provider.bodies[0]["usage"] == (ASKED if said in (None, {}) and said != [] else said)


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("said", [{}, {"usage": {"include": False}}])
def test_bodies_of_every_dialect_and_size_ask(serving: Serving, size: int, said: dict[str, Any]) -> None:
    with serving(where_asked, **OPTIONS) as (gateway, provider), gateway.http(gateway.new_key()) as http:
        body = {"model": "a/b", "messages": [{"role": "user", "content": "x" * size}], **said}
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        assert provider.bodies[0].pop("usage", None) == (said.get("usage") or ASKED)
        assert provider.requests[0].raw.count(b'"usage"') == 1


def test_nothing_is_asked_without_the_setting(serving: Serving) -> None:
    with serving(where_asked) as (gateway, provider):
        assert ask(gateway, gateway.new_key()).status_code == 200
        assert "usage" not in provider.bodies[0]


REFUSALS = [
    {"error": {"message": "Unknown parameter: 'usage'.", "param": "usage", "code": "unknown_parameter"}},
    {"error": {"message": "Unrecognized request argument supplied: usage"}},
    {"detail": [{"loc": ["body", "usage"], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}]},
    {"error": {"message": "unknown field `usage`, expected one of `model`, `input`"}},
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_provider_that_refuses_the_field_is_asked_once_more_without_it(
    serving: Serving, refusal: dict[str, Any]
) -> None:
    def respond(request: Request) -> Answer:
        return Answer(refusal, status=400) if "usage" in request.fields else Answer(response(USAGE))

    with serving(respond, **OPTIONS) as (gateway, provider):
        key = gateway.new_key()
        for _ in range(2):
            assert ask(gateway, key).status_code == 200
        assert ["usage" in body for body in provider.bodies] == [True, False, False]


def test_what_the_caller_sent_and_the_provider_refuses_is_the_callers(serving: Serving) -> None:
    with serving(lambda _: Answer(REFUSALS[0], status=400), **OPTIONS) as (gateway, provider):
        assert ask(gateway, gateway.new_key(), usage=ASKED).status_code == 400
        assert len(provider.requests) == 1


FORMS: list[tuple[dict[str, Any], int]] = [
    ({"cost": 0.0123}, 12_300_000),
    ({"cost": "0.0123"}, 12_300_000),
    ({"cost": {"total_cost": 0.01, "input_tokens_cost": 0.004}}, 10_000_000),
    ({"total_cost": "0.01"}, 10_000_000),
    ({"estimated_cost": 0.0002}, 200_000),
    ({"cost_in_usd_ticks": 28_460_500}, 2_846_050),
    ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.00197}}, 1_970_000),
    ({"cost": 0.0001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.00197}}, 2_070_000),
    ({"cost": 0}, 0),
]


@pytest.fixture(name="priced")
def _priced(serving: Serving) -> Iterator[tuple[RunningGateway, AnsweringProvider, NewKey]]:
    with serving(where_asked, **OPTIONS) as (gateway, provider):
        yield gateway, provider, gateway.new_key()


def test_every_form_of_a_cost_is_read(priced: tuple[RunningGateway, AnsweringProvider, NewKey]) -> None:
    gateway, provider, key = priced
    before = 0
    for form, nano_usd in FORMS:
        usage = USAGE | form
        provider.respond = lambda _, usage=usage: Answer(response(usage))  # type: ignore[misc]  # bound at once
        assert ask(gateway, key).status_code == 200
        assert spent(gateway, key) - before == nano_usd, form
        before += nano_usd
    assert "gateway_costs_missing_total{" not in httpx.get(f"{gateway.url}/metrics").text


@pytest.mark.parametrize("usage", [USAGE, None, USAGE | {"cost": -1}, USAGE | {"cost": "dear"}])
def test_a_promised_cost_that_is_missing_is_counted_and_named(
    serving: Serving, usage: dict[str, Any] | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    answers = [response(COST), response(usage)]
    with (
        path.open("w") as file,
        serving(lambda _: Answer(answers.pop()), log_to=file, **OPTIONS) as (gateway, _),
    ):
        key = gateway.new_key()
        missing = ask(gateway, key, max_output_tokens=50).headers["x-request-id"]
        assert spent(gateway, key) > 0
        assert ask(gateway, key, max_output_tokens=50).status_code == 200
        assert spent(gateway, key) >= 12_300_000
        text = httpx.get(f"{gateway.url}/metrics").text
        assert 'gateway_costs_missing_total{upstream="simulator"} 1.0' in text
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["request_id"] for line in lines if line.get("cost_missing")] == [missing]


def test_a_route_that_goes_by_usage_misses_no_cost(serving: Serving) -> None:
    with serving(lambda _: Answer(response(USAGE))) as (gateway, _):
        assert ask(gateway, gateway.new_key()).status_code == 200
        assert "gateway_costs_missing_total{" not in httpx.get(f"{gateway.url}/metrics").text
