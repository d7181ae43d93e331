"""Anthropic's Messages on real sockets: keys, headers, errors, endings, books."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import pytest

from gateway.proxy import preamble
from tests.dialects.conftest import Stages
from tests.support.scenario import JSON, MODEL, RawClient, Scenario, end_of_body, more, stream
from tests.support.scripted_upstream import Step, answer, hang, request, reset, wait_for

PATH = "/v1/messages"
STARTED = {"input_tokens": 40, "cache_read_input_tokens": 0, "output_tokens": 3}


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def start(**usage: int) -> bytes:
    head: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
    }
    return event("message_start", message={**head, "stop_sequence": None, "usage": {**STARTED, **usage}})


def text(piece: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})


def delta(**usage: int) -> bytes:
    return event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage)


BLOCK = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
CONTENT = [start(), BLOCK, event("ping"), text("Hel"), text("lo")]
STOPPED = [event("content_block_stop", index=0), delta(output_tokens=9), event("message_stop")]


def body_of(**fields: Any) -> bytes:
    asked = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}], "stream": True}
    return json.dumps({**asked, **fields}).encode()


def refusal(status: bytes, kind: str) -> Step:
    told = {"type": "error", "error": {"type": kind, "message": "No."}, "request_id": "req_up"}
    return answer(json.dumps(told).encode(), status=status, headers=JSON)


async def ask(scenario: Scenario, *, path: str = PATH, headers: str = "", **fields: Any) -> RawClient:
    client = await scenario.ask(body_of(**fields), path=path, headers=headers)
    await client.read_all()
    return client


def sdk(scenario: Scenario, **options: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        base_url=scenario.gateway.url, **{"api_key": scenario.key.text, "max_retries": 0, **options}
    )


async def test_a_stream_passes_and_is_settled_by_its_last_delta(stages: Stages) -> None:
    events = [*CONTENT, *STOPPED]
    async with stages([request(), stream(*events), end_of_body()]) as scenario:
        client = await ask(scenario)
        assert client.body == b"".join(events)
        await scenario.ended(outcome="completed", settled_by="usage", usage=(40, 9))


async def test_an_answer_is_settled_at_its_stop_though_its_connection_stays_open(stages: Stages) -> None:
    events = [*CONTENT, *STOPPED]
    async with stages([request(), stream(*events), hang()], upstream={"end_wait_s": 60}) as scenario:
        client = await ask(scenario)
        assert client.body == b"".join(events)
        await scenario.ended(outcome="completed", settled_by="usage", usage=(40, 9))


@pytest.mark.parametrize("fault", [end_of_body(), reset()], ids=["ends", "resets"])
async def test_a_broken_stream_ends_with_an_error_of_type_api_error(stages: Stages, fault: Step) -> None:
    async with stages([request(), stream(*CONTENT), fault]) as scenario:
        client = await ask(scenario)
        passed, _, ending = client.body.partition(b"event: error\ndata: ")
        assert passed == b"".join(CONTENT)
        error = json.loads(ending)
        assert (error["type"], error["error"]["type"]) == ("error", "api_error")
        (entry,) = await scenario.settled()
        assert (entry["by"], entry["amount"]) == ("estimate", str(-(40 * 1_000 + 2 * 10_000)))


async def test_input_that_was_reported_is_charged_and_the_placeholder_of_the_output_is_not(stages: Stages) -> None:
    async with stages([request(), stream(start(output_tokens=8), BLOCK, text("Hel"), text("lo")), reset()]) as scenario:
        await ask(scenario)
        (entry,) = await scenario.settled()
        assert (entry["by"], entry["amount"]) == ("estimate", str(-(40 * 1_000 + 2 * 10_000)))


@pytest.mark.parametrize(("status", "kind"), [(b"529 Overloaded", "overloaded_error"), (b"400 Bad", "invalid_request")])
async def test_a_refusal_keeps_its_status_and_its_body(stages: Stages, status: bytes, kind: str) -> None:
    async with stages([request(), refusal(status, kind)]) as scenario:
        client = await ask(scenario)
        assert (client.status, json.loads(client.body)["error"]["type"]) == (int(status[:3]), kind)
        await scenario.ended(outcome="upstream_refused")


async def test_what_its_clients_send_reaches_the_provider(stages: Stages) -> None:
    headers = "anthropic-version: 2023-06-01\r\nanthropic-beta: a-2025,b-2026\r\nanthropic-secret: x\r\n"
    async with stages([request(), stream(*CONTENT, *STOPPED), end_of_body()]) as scenario:
        await ask(scenario, path=f"{PATH}?beta=true", headers=headers)
        (sent,) = scenario.upstream.requests
        assert sent.startswith(b"POST /v1/messages?beta=true HTTP/1.1\r\n")
        assert b"\r\nanthropic-version: 2023-06-01\r\nanthropic-beta: a-2025,b-2026\r\n" in sent
        assert b"anthropic-secret" not in sent


@pytest.mark.parametrize("name", ["x-api-key", "api-key"])
async def test_a_key_may_come_in_another_header_and_stays_here(stages: Stages, name: str) -> None:
    async with stages([request(), stream(*CONTENT, *STOPPED), end_of_body()]) as scenario:
        client = await scenario.ask(body_of(), path=PATH, authorization=f"{name}: {scenario.key.text}\r\n")
        await client.read_all()
        assert client.status == 200
        assert scenario.key.text.encode() not in scenario.upstream.requests[0]


@pytest.mark.parametrize(
    ("fields", "headers", "status", "kind"),
    [
        ({"model": None}, "", 400, "invalid_request_error"),
        ({"max_tokens": 0}, "", 400, "invalid_request_error"),
        ({}, "x-api-key: sk-ant-other\r\n", 401, "authentication_error"),
        ({"max_tokens": 10**9}, "", 402, "billing_error"),
    ],
)
async def test_the_gateways_own_refusals_have_anthropics_form(
    stages: Stages, fields: dict[str, Any], headers: str, status: int, kind: str
) -> None:
    async with stages([]) as scenario:
        client = await ask(scenario, headers=headers, **fields)
        told = json.loads(client.body)
        assert (client.status, told["type"], told["error"]["type"]) == (status, "error", kind)
        assert told["request_id"] == client.header("x-request-id")
        assert told["error"]["message"]


async def test_the_sdk_reads_a_stream(stages: Stages) -> None:
    async with stages([request(), stream(*CONTENT, *STOPPED), end_of_body()]) as scenario:
        async with (
            sdk(scenario) as client,
            client.messages.stream(
                model=MODEL, max_tokens=50, messages=[{"role": "user", "content": "hello"}]
            ) as events,
        ):
            message = await events.get_final_message()
        assert [block.text for block in message.content if block.type == "text"] == ["Hello"]
        assert message.usage.output_tokens == 9


async def test_the_sdk_raises_on_a_stream_that_broke_off_and_on_a_refusal(stages: Stages) -> None:
    async with stages([request(), stream(*CONTENT), reset()]) as scenario, sdk(scenario) as client:
        with pytest.raises(anthropic.APIStatusError, match="not valid"):
            await read_all(client)
    async with stages([]) as scenario, sdk(scenario, api_key="sk-ant-1") as client:
        with pytest.raises(anthropic.AuthenticationError):
            await read_all(client)


async def read_all(client: anthropic.AsyncAnthropic) -> None:
    messages: Any = [{"role": "user", "content": "hello"}]
    async for _ in await client.messages.create(model=MODEL, max_tokens=50, messages=messages, stream=True):
        pass


async def test_the_first_piece_does_not_wait_for_the_second(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preamble, "MAX_EVENTS_S", 1e9)  # what is held back is not let go by time
    go_on = asyncio.Event()
    begun = [start(), BLOCK, text("Hel")]
    script = [request(), stream(*begun), wait_for(go_on), more(text("lo"), *STOPPED), end_of_body()]
    async with stages(script) as scenario:
        client = await scenario.ask(body_of(), path=PATH)
        await client.read_until(text("Hel"))
        assert scenario.upstream.gone == 0
        go_on.set()
        await client.read_all()
        assert client.body == b"".join([*begun, text("lo"), *STOPPED])
