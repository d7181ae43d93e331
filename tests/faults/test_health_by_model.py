"""A model that fails does not affect other models: health is judged per model of each upstream."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.faults.conftest import Stages
from tests.support.model_upstream import ModelUpstream, refusal
from tests.support.ports import free_port
from tests.support.scenario import Scenario, whole
from tests.support.scripted_upstream import Step, close, hang, serve
from tests.support.waiting import wait_until

BREAKER = {"breaker_failures": 3, "breaker_open_s": 600}


@contextlib.asynccontextmanager
async def two(
    stages: Stages, *, only_first: bool = False, **upstream: Any
) -> AsyncIterator[tuple[Scenario, ModelUpstream]]:
    """A gateway in front of an upstream with failing models, "simulator", and a working one, "second"."""
    first, second = ModelUpstream(whole()), ModelUpstream(whole())
    async with serve(first.script()) as one, serve(second.script()) as other:
        keys = {"api_keys": ["env:TEST_UPSTREAM_KEY"]}
        names = ["simulator"] if only_first else ["simulator", "second"]
        async with stages(
            limits={},
            upstream={"base_url": f"{one.url}/v1", **BREAKER, **upstream},
            upstreams={"second": {"base_url": f"{other.url}/v1", **keys}},
            route={"upstreams": names},
        ) as stage:
            yield stage, first


async def ask(stage: Scenario, model: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {stage.key.text}"}
    async with httpx.AsyncClient(base_url=stage.gateway.url, headers=headers, timeout=20, trust_env=False) as client:
        return await client.post("/v1/responses", json={"model": model, "input": "x"})


async def tried(stage: Scenario, model: str) -> str:
    return ", ".join((await line_of(stage, await ask(stage, model)))["tried"])


async def line_of(stage: Scenario, answer: httpx.Response) -> dict[str, Any]:
    """The log line of one request: it may be written after the answer, and those of others may come before it."""

    def found() -> list[dict[str, Any]]:
        return [line for line in stage.log_lines() if line["request_id"] == answer.headers["x-request-id"]]

    await wait_until(lambda: bool(found()), what="the request is logged")
    return found()[0]


@pytest.mark.parametrize("fault", [refusal(500), refusal(503), close()], ids=["500", "503", "closes"])
async def test_a_model_that_fails_is_left_alone_and_the_others_go_on(stages: Stages, fault: Step) -> None:
    async with two(stages, only_first=True) as (stage, upstream):
        upstream.answers["sick"] = fault
        for _ in range(10):
            await ask(stage, "sick")
        assert upstream.asked["sick"] == BREAKER["breaker_failures"]
        refused = await ask(stage, "sick")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_available_provider")
        for model in ("well", "another"):
            assert (await ask(stage, model)).status_code == 200
        assert upstream.asked["sick"] == BREAKER["breaker_failures"]


async def test_a_model_that_takes_too_long_costs_no_model_that_is_answered_meanwhile(stages: Stages) -> None:
    async with two(stages, only_first=True, first_byte_timeout_s=0.7) as (stage, upstream):
        upstream.answers["slow"] = hang()
        for _ in range(BREAKER["breaker_failures"]):
            assert (await ask(stage, "well")).status_code == 200
            assert (await ask(stage, "slow")).status_code == 408
        assert (await ask(stage, "slow")).status_code == 503
        assert (await ask(stage, "well")).status_code == 200


async def test_an_upstream_that_answers_nothing_in_time_is_down_for_all_models(stages: Stages) -> None:
    async with two(stages, only_first=True, first_byte_timeout_s=0.2) as (stage, upstream):
        upstream.otherwise = hang()
        for _ in range(BREAKER["breaker_failures"]):
            assert (await ask(stage, "one")).status_code == 408
        assert (await ask(stage, "another")).status_code == 503
        assert upstream.asked["another"] == 0


async def test_several_models_that_fail_in_a_row_are_the_whole_upstream(stages: Stages) -> None:
    async with two(stages) as (stage, upstream):
        upstream.otherwise = refusal(503)
        for model in ("one", "two", "one", "three"):
            await ask(stage, model)
        assert await tried(stage, "never asked") == "second#0"


async def test_one_models_failures_count_for_no_more_than_half_of_the_evidence(stages: Stages) -> None:
    async with two(stages, breaker_failures=4) as (stage, upstream):
        upstream.answers |= {"sick": refusal(503), "unwell": refusal(503)}
        for _ in range(10):
            await ask(stage, "sick")
        await ask(stage, "unwell")
        assert await tried(stage, "well") == "simulator#0"


async def test_what_cannot_be_reached_is_down_for_all_models(stages: Stages) -> None:
    async with two(stages, base_url=f"http://127.0.0.1:{free_port()}/v1") as (stage, _):
        for model in ("one", "two", "three"):
            assert await tried(stage, model) == "simulator#0, second#0"
        assert await tried(stage, "four") == "second#0"


async def test_a_model_that_failed_alone_takes_no_probe_of_the_whole(stages: Stages) -> None:
    async with two(stages, breaker_open_s=0.3) as (stage, upstream):
        upstream.otherwise = refusal(503)
        for model in ("sick", "sick", "sick", "other", "other"):
            await ask(stage, model)
        upstream.otherwise, upstream.answers["sick"] = whole(), refusal(503)
        while await tried(stage, "sick") == "second#0":  # until its own probe goes, which fails
            pass
        assert await tried(stage, "well") == "simulator#0"
        assert await tried(stage, "well") == "simulator#0"


async def test_a_limit_of_one_model_rests_the_key_for_that_model_alone(stages: Stages) -> None:
    async with two(stages) as (stage, upstream):
        upstream.answers["limited"] = refusal(429, headers={"retry-after": "30"})
        assert await tried(stage, "limited") == "simulator#0, second#0"
        assert await tried(stage, "limited") == "second#0"
        for _ in range(5):
            assert await tried(stage, "other") == "simulator#0"


@pytest.mark.parametrize("status", [401, 402])
async def test_a_key_that_is_refused_rests_for_all_models(stages: Stages, status: int) -> None:
    async with two(stages) as (stage, upstream):
        upstream.answers["refused"] = refusal(status)
        assert await tried(stage, "refused") == "simulator#0, second#0"
        assert await tried(stage, "other") == "second#0"


async def test_an_account_that_is_spent_by_a_429_is_the_gateways_and_rests_the_key(stages: Stages) -> None:
    spent = (
        b'{"error": {"message": "quota", "type": "insufficient_quota", "param": null, "code": "insufficient_quota"}}'
    )
    async with two(stages, only_first=True) as (stage, upstream):
        upstream.answers["spent"] = refusal(429, body=spent)
        answer = await ask(stage, "spent")
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_rejected_gateway")
        assert answer.headers["x-should-retry"] == "false"
    async with two(stages) as (stage, upstream):
        upstream.answers["spent"] = refusal(429, body=spent)
        assert await tried(stage, "spent") == "simulator#0, second#0"
        assert await tried(stage, "other") == "second#0"


@pytest.mark.parametrize("status", [401, 402, 429])
async def test_a_refusal_that_keeps_no_request_from_being_served_leaves_the_gateway_ready(
    stages: Stages, status: int
) -> None:
    async with two(stages, only_first=True) as (stage, upstream):
        upstream.answers["refused"] = refusal(status)
        await ask(stage, "refused")
        assert (await ask(stage, "other")).status_code == 200
        async with httpx.AsyncClient(base_url=stage.gateway.url, trust_env=False) as client:
            ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["upstreams"]["simulator"]) == (200, True)


async def test_one_sick_model_leaves_the_gateway_ready(stages: Stages) -> None:
    async with two(stages, only_first=True) as (stage, upstream):
        upstream.answers["sick"] = refusal(503)
        for _ in range(5):
            await ask(stage, "sick")
        async with httpx.AsyncClient(base_url=stage.gateway.url, trust_env=False) as client:
            assert (await client.get("/readyz")).status_code == 200


async def test_an_upstream_that_no_route_leads_to_makes_nothing_ready(stages: Stages) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/v1"
    async with two(stages, only_first=True, base_url=nobody, breaker_failures=1) as (stage, _):
        await ask(stage, "any")
        async with httpx.AsyncClient(base_url=stage.gateway.url, trust_env=False) as client:
            ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["upstreams"]) == (503, {"simulator": False, "second": True})


@pytest.mark.parametrize("limited_first", [True, False])
async def test_a_limit_is_told_whoever_else_cannot_be_reached_in_either_order(
    stages: Stages, limited_first: bool
) -> None:
    limited = ModelUpstream(refusal(429, headers={"retry-after": "30"}))
    async with serve(limited.script()) as server:
        keys = {"api_keys": ["env:TEST_UPSTREAM_KEY"]}
        upstreams = {
            "limited": {"base_url": f"{server.url}/v1", **keys},
            "gone": {"base_url": f"http://127.0.0.1:{free_port()}/v1", **keys},
        }
        order = ["limited", "gone"] if limited_first else ["gone", "limited"]
        async with stages(limits={}, upstreams=upstreams, route={"upstreams": order}) as stage:
            for _ in range(2):  # the second time the key rests
                answer = await ask(stage, "any")
                assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")
                assert answer.headers["x-gateway-limit-source"] == "upstream"
                assert (await line_of(stage, answer))["upstream"] == "limited"


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (refusal(429), refusal(503), 429),
        (refusal(503), refusal(401), 503),
        (refusal(429, headers={"retry-after": "40"}), refusal(429, headers={"retry-after": "7"}), 429),
        (refusal(502, body=b"<html>"), refusal(503), 503),
    ],
    ids=["limit before fault", "fault before account", "the shortest wait", "what can be read"],
)
@pytest.mark.parametrize("turned", [True, False])
async def test_of_two_refusals_the_more_helpful_one_is_told(
    stages: Stages, first: Step, second: Step, told: int, turned: bool
) -> None:
    one, other = ModelUpstream(second if turned else first), ModelUpstream(first if turned else second)
    async with serve(one.script()) as a, serve(other.script()) as b:
        upstreams = {
            name: {"base_url": f"{server.url}/v1", "api_keys": ["env:TEST_UPSTREAM_KEY"]}
            for name, server in (("one", a), ("other", b))
        }
        async with stages(limits={}, upstreams=upstreams, route={"upstreams": ["one", "other"]}) as stage:
            answer = await ask(stage, "any")
            assert answer.status_code == told
            assert answer.headers.get("retry-after") in (None, "7")
