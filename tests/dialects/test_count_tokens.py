"""Counting a message's tokens: free, under a bound of its own, never made up, and no news of the provider's health."""

from __future__ import annotations

import json
import time
from typing import Any

import anthropic
import pytest

from gateway.identity.api_keys import new_secret
from tests.dialects.conftest import Stages
from tests.support.gateway import NewKey
from tests.support.scenario import JSON, MODEL, RawClient, Scenario
from tests.support.scripted_upstream import Step, answer, request, serve

PATH = "/v1/messages/count_tokens"
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
COUNTED = answer(b'{"input_tokens": 2095}', headers=JSON)
HTML = b"content-type: text/html\r\n"


def refused(status: bytes, body: bytes = b"<html>no such page</html>") -> Step:
    return answer(body, status=status, headers=HTML)


async def count(scenario: Scenario, *, path: str = PATH, **fields: Any) -> RawClient:
    client = await scenario.ask(json.dumps({**ASKED, **fields}).encode(), path=path)
    await client.read_all()
    return client


async def test_the_providers_number_passes_with_its_query_and_costs_nothing(stages: Stages) -> None:
    async with stages([request(), COUNTED]) as scenario:
        client = await count(scenario, path=f"{PATH}?beta=true")
        assert (client.status, client.body) == (200, b'{"input_tokens": 2095}')
        assert scenario.upstream.requests[0].startswith(b"POST /v1/messages/count_tokens?beta=true HTTP/1.1\r\n")
        await scenario.logged(1)
        assert scenario.log_lines()[0]["outcome"] == "completed"
        assert scenario.journal() == []
        balance = scenario.gateway.balance(scenario.key)
        assert (balance.held, balance.spent) == (0, 0)


async def test_it_takes_nothing_of_any_limit_and_is_refused_by_none(stages: Stages) -> None:
    limits = {"rpm": 1, "tpm": 1, "concurrency": 0, "budget_usd_day": 0, "budget_tokens_total": 0}
    async with stages([step for _ in range(50) for step in (request(), COUNTED)], limits=limits) as scenario:
        for _ in range(50):
            assert (await count(scenario)).status == 200
        assert scenario.gateway.balance(scenario.key).held == 0


async def test_it_has_a_bound_of_its_own_which_waiting_as_told_satisfies(stages: Stages) -> None:
    script = [step for _ in range(4) for step in (request(), COUNTED)]
    async with stages(script, assumed={"token_counts_per_minute": 600}) as scenario:
        statuses = [(await count(scenario)).status for _ in range(3)]
        assert statuses == [200, 200, 200]
    async with stages(script, assumed={"token_counts_per_minute": 2}) as scenario:
        refused_one = [await count(scenario) for _ in range(3)][-1]
        told = json.loads(refused_one.body)
        assert (refused_one.status, told["type"], told["error"]["type"]) == (429, "error", "rate_limit_error")
        assert int(refused_one.header("retry-after-ms") or 0) > 0
        assert len(scenario.upstream.requests) == 2


def _another_secret(key: NewKey) -> str:
    """A well-formed key of the same team that does not exist."""
    return new_secret(key.team.id, key.id)[0]


@pytest.mark.parametrize("known", [True, False])
async def test_only_a_key_that_is_alive_may_count(stages: Stages, known: bool) -> None:
    async with stages([]) as scenario:
        text = _another_secret(scenario.key) if known else "sk-ant-api03"
        client = await scenario.ask(json.dumps(ASKED).encode(), path=PATH, authorization=f"x-api-key: {text}\r\n")
        await client.read_all()
        told = json.loads(client.body)
        assert (client.status, told["type"], told["error"]["type"]) == (401, "error", "authentication_error")
        assert scenario.upstream.requests == []


async def test_a_model_that_the_key_may_not_use_is_not_counted(stages: Stages) -> None:
    async with stages([]) as scenario:
        key = scenario.gateway.new_key(key_models=("other/*",))
        authorization = f"x-api-key: {key.text}\r\n"
        client = await scenario.ask(json.dumps(ASKED).encode(), path=PATH, authorization=authorization)
        await client.read_all()
        assert client.status == 403
        assert scenario.upstream.requests == []


# An upstream that does not offer it


@pytest.mark.parametrize("status", [b"404 Not Found", b"405 Method Not Allowed", b"501 Not Implemented"])
async def test_where_nobody_offers_it_the_answer_is_a_404_and_health_learns_nothing(
    stages: Stages, status: bytes
) -> None:
    """A 404 is the status at which Claude Code estimates by itself (musistudio/claude-code-router, BerriAI/litellm)."""
    script = [step for _ in range(6) for step in (request(), refused(status))]
    async with stages(script, upstream={"breaker_failures": 1}) as scenario:
        for _ in range(6):
            client = await count(scenario)
            assert client.status == 404
            assert b"input_tokens" not in client.body
        (upstream,) = scenario.gateway.services.handler.snapshot.upstreams.values()
        assert list(upstream.health.models(time.monotonic())) == []
        assert upstream.keys.keys[0].resting_until_s(MODEL) == 0
        assert len(scenario.upstream.requests) == 6


async def test_a_404_for_it_does_not_pass_for_a_sign_of_health(stages: Stages) -> None:
    """A model that fails stays known as failing, whatever a missing call answers meanwhile."""
    failed = answer(b"{}", status=b"500 Down", headers=JSON)
    script = [request(), failed, request(), refused(b"404 Not Found")]
    async with stages(script, upstream={"breaker_failures": 5}) as scenario:
        await (await scenario.ask(stream=False)).read_all()
        assert (await count(scenario)).status == 404
        (upstream,) = scenario.gateway.services.handler.snapshot.upstreams.values()
        assert [found.model for found in upstream.health.models(time.monotonic())] == [MODEL]


@pytest.mark.parametrize("status", [b"404 Not Found", b"501 Not Implemented"])
async def test_the_next_upstream_is_asked_where_one_does_not_offer_it(stages: Stages, status: bytes) -> None:
    async with serve([request(), COUNTED]) as other:
        upstreams = {"second": {"base_url": f"{other.url}/v1", "api_keys": ["env:TEST_UPSTREAM_KEY"]}}
        route = {"upstreams": ["simulator", "second"]}
        async with stages([request(), refused(status)], upstreams=upstreams, route=route) as scenario:
            client = await count(scenario)
            assert (client.status, client.body) == (200, b'{"input_tokens": 2095}')
            assert len(other.requests) == 1


async def test_the_sdk_counts_and_knows_a_404(stages: Stages) -> None:
    script = [request(), COUNTED, request(), refused(b"405 Method Not Allowed")]
    async with (
        stages(script) as scenario,
        anthropic.AsyncAnthropic(base_url=scenario.gateway.url, api_key=scenario.key.text, max_retries=0) as client,
    ):
        messages: Any = ASKED["messages"]
        counted = await client.messages.count_tokens(model=MODEL, messages=messages)
        assert counted.input_tokens == 2095
        with pytest.raises(anthropic.NotFoundError, match=r"messages\.count_tokens"):
            await client.messages.count_tokens(model=MODEL, messages=messages)


async def test_a_dry_run_of_it_reserves_nothing_and_is_refused_by_no_limit(stages: Stages) -> None:
    async with stages([], limits={"rpm": 0}) as scenario:
        client = await scenario.ask(json.dumps(ASKED).encode(), path=PATH, headers="x-gateway-dry-run: true\r\n")
        await client.read_all()
        assert (client.status, json.loads(client.body)["hold"]["amount_usd"]) == (200, "0")
