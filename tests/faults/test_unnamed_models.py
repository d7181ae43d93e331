"""Requests that name no model: what they go on from names it, or the operator; what is held covers any model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from tests.faults.conftest import Stages
from tests.support.scenario import JSON, Scenario, response, usage
from tests.support.scripted_upstream import Step, answer, request

PRICES: Final = {
    "cheap/one": {"input": "1", "output": "2", "max_output_tokens": 1000, "context_tokens": 10_000},
    "dear/one": {"input": "10", "output": "100", "max_output_tokens": 2000, "context_tokens": 10_000},
}
ROUTED: Final[dict[str, Any]] = {"prices": PRICES, "routing": {"unnamed_model": "cheap/one"}}
PROMPT: Final[dict[str, Any]] = {"prompt": {"id": "pmpt_1", "version": "2"}}


def answered(model: str, **fields: Any) -> list[Step]:
    body = response("completed", usage=usage(100, 7), **fields) | {"model": model}
    return [request(), answer(json.dumps(body).encode(), headers=JSON)]


async def ask(scenario: Scenario, *, headers: str = "", **fields: Any) -> tuple[int, dict[str, Any]]:
    client = await scenario.ask(json.dumps(fields).encode(), headers=headers)
    await client.read_all()
    return client.status, json.loads(client.body)


def sent(scenario: Scenario) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(scenario.upstream.requests[-1].partition(b"\r\n\r\n")[2])
    return found


@pytest.fixture
async def scenario(stages: Stages) -> AsyncIterator[Scenario]:
    script = [*answered("one-2026-01-01"), *answered("cheap/one")]
    async with stages(script, limits={}, **ROUTED) as scenario:
        yield scenario


@pytest.mark.parametrize("model", ["dear/one", "one-2026-01-01"], ids=["dear", "unlisted"])
async def test_a_prompts_model_is_charged(stages: Stages, model: str) -> None:
    async with stages(answered(model), limits={}, **ROUTED) as scenario:
        status, _ = await ask(scenario, **PROMPT, max_output_tokens=1000)
        assert status == 200
        assert sent(scenario) == {**PROMPT, "max_output_tokens": 1000}, "the prompt says which model answers"
        (entry,) = await scenario.settled()
        rates = (10_000, 100_000) if model == "dear/one" else (1_000, 2_000)
        assert int(entry["amount"]) == -(100 * rates[0] + 7 * rates[1])
        assert scenario.log_lines()[0]["model"] == "cheap/one"


async def test_the_most_expensive_answer_is_held(scenario: Scenario) -> None:
    status, told = await ask(scenario, headers="x-gateway-dry-run: true\r\n", **PROMPT, max_output_tokens=1000)
    assert status == 200
    # A prompt of all that the most expensive model reads, and all that may be put out.
    assert float(told["hold"]["amount_usd"]) == pytest.approx((10_000 * 10 + 1000 * 100) / 1e6)


async def test_without_a_model_of_the_operators_the_error_says_what_to_do(stages: Stages) -> None:
    async with stages(limits={}, prices=PRICES) as scenario:
        for what, fields in (("prompt", PROMPT), ("conversation", {"conversation": "conv_1"})):
            status, body = await ask(scenario, **fields)
            assert (status, body["error"]["code"], body["error"]["param"]) == (400, "missing_field", "model")
            assert what in body["error"]["message"]
            assert "routing.unnamed_model" in body["error"]["message"]
        status, body = await ask(scenario, metadata={"prompt": "x"}, input="x")
        assert (status, body["error"]["message"]) == (400, "The field 'model' is required.")
        assert scenario.upstream.requests == []


async def test_a_conversations_model_is_the_operators_and_is_sent(scenario: Scenario) -> None:
    assert (await ask(scenario, conversation="conv_1", input="x"))[0] == 200
    assert sent(scenario)["model"] == "cheap/one"
    (entry,) = await scenario.settled()
    assert int(entry["amount"]) == -(100 * 1_000 + 7 * 2_000)


async def test_a_renaming_route_sends_its_model_and_charges_it(stages: Stages) -> None:
    script = answered("dear/one")
    async with stages(script, limits={}, route={"rename": "theirs"}, **ROUTED) as scenario:
        assert (await ask(scenario, **PROMPT))[0] == 200
        assert sent(scenario)["model"] == "theirs"
        (entry,) = await scenario.settled()
        assert int(entry["amount"]) == -(100 * 1_000 + 7 * 2_000)


@pytest.mark.parametrize("more", [{}, {"input": "more"}, PROMPT], ids=["nothing else", "input", "prompt"])
async def test_what_goes_on_from_a_known_response_needs_neither_model_nor_input(
    scenario: Scenario, more: dict[str, Any]
) -> None:
    status, first = await ask(scenario, model="dear/one", input="x")
    assert status == 200
    status, _ = await ask(scenario, previous_response_id=first["id"], **more)
    assert (status, sent(scenario)["model"]) == (200, "dear/one")
    assert scenario.log_lines()[-1]["model"] == "dear/one"


async def test_a_kept_response_gives_the_model_of_what_goes_on_from_it(stages: Stages) -> None:
    script = [*answered("dear/one"), *answered("dear/one")]
    async with stages(script, limits={}, route={"state": "gateway"}, prices=PRICES) as scenario:
        status, first = await ask(scenario, model="dear/one", input="x")
        assert status == 200
        status, _ = await ask(scenario, previous_response_id=first["id"], input="more")
        assert (status, sent(scenario)["model"]) == (200, "dear/one")
        status, body = await ask(scenario, previous_response_id="resp_unknown", input="more")
        assert (status, body["error"]["code"]) == (404, "response_not_found")


async def test_a_key_that_may_not_use_the_operators_model_is_refused(stages: Stages) -> None:
    async with stages(limits={}, **ROUTED) as scenario:
        key = scenario.gateway.new_key(models=("dear/*",))
        client = await scenario.ask(json.dumps(PROMPT).encode(), authorization=f"authorization: Bearer {key.text}\r\n")
        await client.read_all()
        assert client.status == 403
