"""What callers of every dialect have in common: keys in three headers, headers that stay here, Azure's paths."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.dialects.conftest import Stages
from tests.support.scenario import JSON, MODEL, RawClient, Scenario
from tests.support.scripted_upstream import answer, request

ASKED: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "x"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"prompt": "x"},
    "/v1/embeddings": {"input": "x"},
    "/v1/messages": {"max_tokens": 5, "messages": [{"role": "user", "content": "x"}]},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/images/generations": {"prompt": "x"},
    "/v1/audio/speech": {"input": "x", "voice": "alloy"},
    "/v1/moderations": {"input": "x"},
    "/v1/rerank": {"query": "x", "documents": ["y"]},
}
every_call = pytest.mark.parametrize("path", ASKED)
WHOLE = answer(b'{"id": "x_1", "object": "response", "status": "completed", "choices": []}', headers=JSON)
ANSWERED = [request(), WHOLE]


async def ask(scenario: Scenario, path: str, *, headers: str = "", authorization: str = "", **fields: Any) -> RawClient:
    body = json.dumps({"model": MODEL, **ASKED[path], **fields}).encode()
    client = await scenario.ask(body, path=path, headers=headers, authorization=authorization)
    await client.read_all()
    return client


def lines(**headers: str) -> str:
    return "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())


# Keys


@every_call
@pytest.mark.parametrize("names", [("api_key",), ("x_api_key",), ("authorization", "api_key", "x_api_key")])
async def test_a_key_may_come_in_three_headers_and_stays_here(
    stages: Stages, path: str, names: tuple[str, ...]
) -> None:
    async with stages(ANSWERED) as scenario:
        text = scenario.key.text
        sent = lines(**{name: f"Bearer {text}" if name == "authorization" else text for name in names})
        client = await ask(scenario, path, authorization=sent)
        assert client.status == 200
        assert text.encode() not in scenario.upstream.requests[0]


@pytest.mark.parametrize("first", ["authorization", "api_key", "x_api_key"])
@pytest.mark.parametrize("second", ["authorization", "api_key", "x_api_key"])
async def test_two_keys_that_differ_are_refused(stages: Stages, first: str, second: str) -> None:
    async with stages([]) as scenario:
        keys = [scenario.key.text, scenario.gateway.new_key().text]
        sent = "".join(
            lines(**{name: f"Bearer {text}" if name == "authorization" else text})
            for name, text in zip((first, second), keys, strict=True)
        )
        client = await ask(scenario, "/v1/chat/completions", authorization=sent)
        assert client.status == (400 if first == second else 401)
        assert scenario.upstream.requests == []


# Headers that OpenAI's clients send


ACCOUNT = lines(openai_organization="org-1", openai_project="proj_1")


@every_call
@pytest.mark.parametrize("forwarded", [True, False])
async def test_organization_and_project_stay_here_unless_a_setting_forwards_them(
    stages: Stages, path: str, forwarded: bool
) -> None:
    upstream = {"forward_headers": ["openai-organization", "openai-project"] if forwarded else []}
    async with stages(ANSWERED, upstream=upstream) as scenario:
        client = await ask(scenario, path, headers=ACCOUNT)
        assert client.status == 200
        (sent,) = scenario.upstream.requests
        assert (b"openai-organization: org-1\r\n" in sent) == forwarded
        assert (b"openai-project: proj_1\r\n" in sent) == forwarded


# Azure's paths


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("/openai/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/v1/responses?api-version=preview", "/v1/responses"),
        ("/openai/responses?api-version=2026-01-01&stream=false", "/v1/responses"),
        ("/openai/v1/embeddings", "/v1/embeddings"),
    ],
)
@pytest.mark.parametrize("on", [True, False])
async def test_azures_paths_are_served_where_a_setting_says_so(stages: Stages, asked: str, path: str, on: bool) -> None:
    async with stages(ANSWERED, server={"port": 0, "azure_paths": on}) as scenario:
        body = json.dumps({"model": MODEL, **ASKED[path]}).encode()
        client = await scenario.ask(body, path=asked, authorization=lines(api_key=scenario.key.text))
        await client.read_all()
        assert client.status == (200 if on else 404)
        if on:
            target = scenario.upstream.requests[0].split(b" ", 2)[1]
            assert target.startswith(path.encode())
            assert b"api-version" not in target
            await scenario.logged(1)
            assert scenario.log_lines()[0]["path"] == path


@pytest.mark.parametrize("fields", [{}, {"model": "another"}])
async def test_a_deployment_is_the_model(stages: Stages, fields: dict[str, str]) -> None:
    async with stages(ANSWERED, server={"port": 0, "azure_paths": True}) as scenario:
        body = json.dumps({**ASKED["/v1/chat/completions"], **fields}).encode()
        path = "/openai/deployments/gpt-5.2/chat/completions?api-version=2026-01-01"
        client = await scenario.ask(body, path=path, authorization=lines(api_key=scenario.key.text))
        await client.read_all()
        assert client.status == 200
        head, _, sent = scenario.upstream.requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert json.loads(sent)["model"] == "gpt-5.2"


async def test_azures_sdk_runs_and_lists_models(stages: Stages) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    chat = answer(
        json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice]}).encode(), headers=JSON
    )
    async with (
        stages([request(), chat], server={"port": 0, "azure_paths": True}) as scenario,
        openai.AsyncAzureOpenAI(
            azure_endpoint=scenario.gateway.url,
            api_key=scenario.key.text,
            api_version="2026-01-01",
            azure_deployment="gpt-5.2",
            max_retries=0,
        ) as client,
    ):
        messages: Any = [{"role": "user", "content": "hello"}]
        said = await client.chat.completions.create(model="gpt-5.2", messages=messages)
        assert said.choices[0].message.content == "Hi"
