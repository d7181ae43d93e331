"""What goes to an upstream, where it goes, and what comes back to the client of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.faults.conftest import Stages
from tests.support.model_upstream import ModelUpstream, refusal
from tests.support.scenario import Scenario, whole
from tests.support.scripted_upstream import Upstream, answer, serve

KEYS = {"api_keys": ["env:TEST_UPSTREAM_KEY"]}
SESSION = ("session_id", "x-session-affinity", "conversation_id", "thread-id", "x-codex-turn-state", "x-grok-conv-id")


@contextlib.asynccontextmanager
async def two(
    stages: Stages, *, route: dict[str, Any] | None = None, **upstream: Any
) -> AsyncIterator[tuple[Scenario, Upstream, Upstream]]:
    """A gateway in front of the upstreams "one" and "two", which answer everything."""
    async with (
        serve(ModelUpstream(whole()).script()) as one,
        serve(ModelUpstream(whole()).script()) as other,
        stages(
            limits={},
            upstreams={
                "one": {"base_url": f"{one.url}/v1", **KEYS, **upstream},
                "two": {"base_url": f"{other.url}/v1", **KEYS},
            },
            route={"upstreams": ["one", "two"], **(route or {})},
        ) as scenario,
    ):
        yield scenario, one, other


async def ask(scenario: Scenario, path: str = "/v1/responses", **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {scenario.key.text}", **fields.pop("headers", {})}
    async with httpx.AsyncClient(base_url=scenario.gateway.url, headers=headers, timeout=20, trust_env=False) as client:
        return await client.post(path, json={"model": "any", "input": "x", **fields})


def to(server: Upstream) -> dict[str, Any]:
    return {"limits": {}, "upstream": {"base_url": f"{server.url}/v1"}}


def sent(upstream: Upstream, at: int = -1) -> dict[str, str]:
    head = upstream.requests[at].partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in head)}


async def test_what_names_a_session_passes_to_the_provider(stages: Stages) -> None:
    named = {name: f"value of {name}" for name in SESSION}
    async with stages(limits={}) as scenario:
        client = await ask(scenario, headers={**named, "cookie": "mine", "x-other": "kept here"})
        assert client.status_code == 200
        head = sent(scenario.upstream)
        assert {name: head[name] for name in SESSION} == named
        assert not {"cookie", "x-other"} & set(head)


async def test_an_answers_session_headers_reach_the_client(stages: Stages) -> None:
    body = b'{"id": "resp_1", "object": "response", "status": "completed", "usage": null}'
    told = b"content-type: application/json\r\nx-codex-turn-state: state\r\nsession_id: s\r\nset-cookie: kept=here\r\n"
    upstream = ModelUpstream(answer(body, headers=told))
    async with (
        serve(upstream.script()) as server,
        stages(limits={}, upstream={"base_url": f"{server.url}/v1"}) as scenario,
    ):
        headers = (await ask(scenario)).headers
        assert (headers["x-codex-turn-state"], headers["session_id"]) == ("state", "s")
        assert "set-cookie" not in headers


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        ("bearer", "authorization", "Bearer upstream-key-of-the-tests"),
        ("api-key", "api-key", "upstream-key-of-the-tests"),
        ("x-api-key", "x-api-key", "upstream-key-of-the-tests"),
    ],
)
async def test_an_upstream_is_asked_in_its_own_way(
    stages: Stages, monkeypatch: pytest.MonkeyPatch, auth: str, header: str, value: str
) -> None:
    monkeypatch.setenv("TEST_STATIC", "from the environment")
    own: dict[str, Any] = {
        "auth": auth,
        "forward_headers": ["x-mine", "x-team-*"],
        "headers": {"x-static": "env:TEST_STATIC", "user-agent": "the gateway"},
        "query": {"api-version": "2026-01-01", "a b": "c&d"},
    }
    async with two(stages, **own) as (scenario, one, _):
        await ask(scenario, headers={"x-mine": "1", "x-team-a": "2", "x-other": "3", "user-agent": "a client"})
        assert one.requests[-1].startswith(b"POST /v1/responses?api-version=2026-01-01&a+b=c%26d HTTP/1.1\r\n")
        head = sent(one)
        assert {
            "x-mine": "1",
            "x-team-a": "2",
            "x-static": "from the environment",
            header: value,
        }.items() <= head.items()
        assert head["user-agent"] == "the gateway"
        assert "x-other" not in head
        assert len({"authorization", "api-key", "x-api-key"} & set(head)) == 1


@pytest.mark.parametrize("by", ["session_id", "prompt_cache_key", "safety_identifier"])
async def test_the_turns_of_a_session_go_to_one_upstream(stages: Stages, by: str) -> None:
    async with two(stages, route={"weights": [1, 1]}) as (scenario, one, other):
        for session in range(8):
            before = len(one.requests), len(other.requests)
            for _ in range(4):
                mark = {"headers": {by: f"s{session}"}} if by == "session_id" else {by: f"s{session}"}
                await ask(scenario, **mark)
            assert 0 in (len(one.requests) - before[0], len(other.requests) - before[1])
        assert len(one.requests) * len(other.requests) > 0, "sessions spread over both"


async def test_without_a_session_the_callers_key_keeps_requests_together_where_the_route_says_so(
    stages: Stages,
) -> None:
    async with two(stages, route={"weights": [1, 1], "affinity": "api_key"}) as (scenario, one, other):
        for _ in range(12):
            await ask(scenario)
        assert 0 in (len(one.requests), len(other.requests))


async def test_a_session_stays_with_one_key_fails_over_and_comes_back(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_OTHER_KEY", "another")
    upstream = ModelUpstream(whole())
    async with serve(upstream.script()) as server:
        keys = {"base_url": f"{server.url}/v1", "api_keys": ["env:TEST_UPSTREAM_KEY", "env:TEST_OTHER_KEY"]}
        async with stages(limits={}, upstream=keys) as scenario:
            for _ in range(5):
                await ask(scenario, prompt_cache_key="s")
            first = {sent(server, at)["authorization"] for at in range(5)}
            assert len(first) == 1
            upstream.answers["any"] = refusal(429, headers={"retry-after": "0.2"})
            await ask(scenario, prompt_cache_key="s")
            assert {sent(server, -1)["authorization"], sent(server, -2)["authorization"]} > first
            upstream.answers.clear()
            while (await ask(scenario, prompt_cache_key="s")).status_code != 200 or (
                sent(server)["authorization"] not in first
            ):
                pass  # until its own key has rested: bounded by the test's timeout


@pytest.mark.parametrize(
    ("provider", "asked"),
    [
        ({"order": ["two"]}, "two"),
        ({"only": ["two", "somebody else's"]}, "two"),
        ({"ignore": ["one"]}, "two"),
        ({"order": ["two", "one"], "allow_fallbacks": False}, "two"),
        ({"only": ["somebody else's"]}, "one"),
        ({"order": ["somebody else's"], "allow_fallbacks": False}, "one"),
        ({"max_price": {"prompt": 1, "completion": "10"}}, "one"),
        ("no object", "one"),
    ],
)
async def test_a_callers_wishes_for_upstreams_are_met(stages: Stages, provider: Any, asked: str) -> None:
    async with two(stages) as (scenario, one, other):
        assert (await ask(scenario, provider=provider)).status_code == 200
        upstream = {"one": one, "two": other}[asked]
        assert json.loads(upstream.requests[-1].partition(b"\r\n\r\n")[2])["provider"] == provider
        assert len(one.requests) + len(other.requests) == 1


@pytest.mark.parametrize(
    ("provider", "requirement"),
    [
        ({"ignore": ["one", "two"]}, "ignore"),
        ({"only": ["one"], "ignore": ["one"]}, "only"),
        ({"max_price": {"prompt": 0.5}}, "max_price.prompt"),
        ({"max_price": {"completion": "9.99"}}, "max_price.completion"),
    ],
)
async def test_wishes_that_nobody_meets_are_refused_and_cost_nothing(
    stages: Stages, provider: dict[str, Any], requirement: str
) -> None:
    async with two(stages) as (scenario, one, other):
        refused = await ask(scenario, provider=provider)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (503, "no_available_provider", "provider")
        assert requirement in error["message"]
        assert "one" in error["message"]
        assert (one.requests, other.requests, scenario.journal()) == ([], [], [])


@pytest.mark.parametrize(
    ("body", "headers", "message", "code"),
    [
        (b'{"error": {"message": "m", "code": 400}}', b"application/json", "m", "400"),
        (b'{"error": "m"}', b"application/json", "m", "upstream_refused"),
        (b'{"detail": "m"}', b"application/json", "m", "upstream_refused"),
        (
            b'{"detail": [{"loc": ["body", "model"], "msg": "m"}]}',
            b"application/json",
            "body.model: m",
            "upstream_refused",
        ),
        (b"m", b"text/plain", "m", "upstream_refused"),
        (b"<html><h1>m</h1></html>", b"text/html", "The provider answered 422.", "upstream_refused"),
    ],
)
async def test_a_refusal_that_typed_clients_cannot_read_comes_in_the_standard_form(
    stages: Stages, body: bytes, headers: bytes, message: str, code: str
) -> None:
    upstream = ModelUpstream(answer(body, status=b"422 No", headers=b"content-type: " + headers + b"\r\n"))
    async with (
        serve(upstream.script()) as server,
        stages(limits={}, upstream={"base_url": f"{server.url}/v1"}) as scenario,
    ):
        refused = await ask(scenario)
        error = refused.json()["error"]
        assert (refused.status_code, refused.headers["x-should-retry"]) == (422, "false")
        assert (error["message"], error["code"]) == (message, code)
        assert isinstance(error["type"], str)
        assert isinstance(error["param"], str)


async def test_a_limit_in_an_odd_form_keeps_its_wait(stages: Stages) -> None:
    upstream = ModelUpstream(refusal(429, headers={"retry-after": "7"}, body=b'{"error": "slow down"}'))
    async with (
        serve(upstream.script()) as server,
        stages(limits={}, upstream={"base_url": f"{server.url}/v1"}) as scenario,
    ):
        refused = await ask(scenario)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
        assert "x-should-retry" not in refused.headers


@pytest.mark.parametrize("kind", [b"", b"content-type: text/plain\r\n", b"content-type: application/octet-stream\r\n"])
@pytest.mark.parametrize("flag", [True, "True", 1, "1"], ids=["true", "True as text", "1", "1 as text"])
async def test_events_are_streamed_whatever_their_type_is_called(stages: Stages, kind: bytes, flag: Any) -> None:
    event = (
        b'event: response.completed\ndata: {"type":"response.completed","sequence_number":0,"response":{"id":"r"}}\n\n'
    )
    upstream = ModelUpstream(answer(event, headers=kind))
    async with (
        serve(upstream.script()) as server,
        stages(limits={}, upstream={"base_url": f"{server.url}/v1"}) as scenario,
    ):
        answered = await ask(scenario, stream=flag)
        assert (answered.status_code, answered.content) == (200, event)


@pytest.mark.parametrize("coding", [b"none", b"identity", b"", b"utf-8", b"UTF-8"])
async def test_what_is_no_compression_is_not_taken_for_one(stages: Stages, coding: bytes) -> None:
    body = b'{"id": "resp_1", "object": "response", "status": "completed", "usage": null}'
    upstream = ModelUpstream(
        answer(body, headers=b"content-type: application/json\r\ncontent-encoding: %b\r\n" % coding)
    )
    async with (
        serve(upstream.script()) as server,
        stages(limits={}, upstream={"base_url": f"{server.url}/v1"}) as scenario,
    ):
        answered = await ask(scenario)
        assert (answered.status_code, answered.content) == (200, body)


@pytest.mark.parametrize(
    ("route", "fields", "chosen_by"),
    [
        ({}, {}, None),
        ({"weights": [1, 1]}, {}, "weights"),
        ({"weights": [1, 1]}, {"prompt_cache_key": "s"}, "affinity"),
        ({}, {"provider": {"order": ["two"]}}, "provider"),
        ({}, {"provider": {"order": ["somebody else's"]}}, None),
    ],
    ids=["configuration", "weights", "affinity", "provider", "a provider elsewhere"],
)
async def test_the_log_names_the_rule_that_chose_the_upstream(
    stages: Stages, route: dict[str, Any], fields: dict[str, Any], chosen_by: str | None
) -> None:
    async with two(stages, route=route) as (scenario, _, _):
        answered = await ask(scenario, **fields)
        await scenario.logged(1)
        assert scenario.log_lines()[0].get("chosen_by") == chosen_by
        await ask(scenario, previous_response_id=answered.json()["id"])
        await scenario.logged(2)
        assert scenario.log_lines()[1]["chosen_by"] == "response"


async def test_a_request_without_an_input_is_left_to_the_provider(stages: Stages) -> None:
    async with two(stages) as (scenario, one, _):
        assert (await ask(scenario, input=None, prompt={"id": "pmpt_1"})).status_code == 200
        assert len(one.requests) == 1
