"""Chat completions on real sockets: bytes, endings, books, failover, and what the gateway asks for on its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import openai
import pytest

from tests.dialects.conftest import Stages
from tests.support.scenario import DONE, JSON, MODEL, RawClient, Scenario, end_of_body, more, stream
from tests.support.scripted_upstream import Step, Upstream, answer, hang, request, reset, serve, wait_for
from tests.support.waiting import wait_until

PATH = "/v1/chat/completions"
USAGE = {"prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47}
ROLE = {"role": "assistant", "content": ""}


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, index: int = 0, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": index, "delta": delta, "finish_reason": reason}]
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": choices}
    return b"data: " + json.dumps({**body, **more}).encode() + b"\n\n"


def usage(**counts: int) -> bytes:
    return chunk(usage={**USAGE, **counts})


def error_chunk(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"error": {"message": "Down.", "type": "server_error", **fields}}).encode() + b"\n\n"


def body_of(**fields: Any) -> bytes:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": 50}
    return json.dumps({**asked, "stream": True, **fields}).encode()


def whole(**counts: int) -> Step:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    completion = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}
    return answer(json.dumps({**completion, "usage": {**USAGE, **counts}}).encode(), headers=JSON)


def refusal(status: bytes, **error: Any) -> Step:
    return answer(json.dumps({"error": {"message": "No.", **error}}).encode(), status=status, headers=JSON)


def bodies(upstream: Upstream) -> list[dict[str, Any]]:
    return [json.loads(one.partition(b"\r\n\r\n")[2]) for one in upstream.requests]


async def ask(stage: Scenario, **fields: Any) -> RawClient:
    client = await stage.ask(body_of(**fields), path=PATH)
    await client.read_all()
    return client


async def stream_with_sdk(stage: Scenario, seen: list[object]) -> None:
    """Streams with the official SDK; `seen` has the chunks that came before it raised."""
    messages: Any = [{"role": "user", "content": "hello"}]
    async for one in await stage.sdk().chat.completions.create(model=MODEL, messages=messages, stream=True):
        seen.append(one)  # noqa: PERF401 - what came before an exception counts


@contextlib.asynccontextmanager
async def two(
    stages: Stages, first: Sequence[Step], second: Sequence[Step]
) -> AsyncIterator[tuple[Scenario, Upstream]]:
    """Two upstreams; the second is asked where the first gives no answer."""
    async with serve(second) as other:
        upstreams = {"second": {"base_url": f"{other.url}/v1", "api_keys": ["env:TEST_UPSTREAM_KEY"]}}
        async with stages(first, upstreams=upstreams, route={"upstreams": ["simulator", "second"]}) as stage:
            yield stage, other


CONTENT = [chunk(ROLE), chunk({"content": "Hel"}), chunk({"content": "lo"})]
WHOLE = [*CONTENT, chunk({}, "stop")]


# Usage: asked for by the gateway, and left out where its caller did not ask


async def test_usage_is_asked_for_settled_by_and_left_out(stages: Stages) -> None:
    async with stages([request(), stream(*WHOLE, usage(), DONE), end_of_body()]) as stage:
        client = await ask(stage)
        assert client.body == b"".join([*WHOLE, DONE])
        assert bodies(stage.upstream) == [{**json.loads(body_of()), "stream_options": {"include_usage": True}}]
        await stage.ended(outcome="completed", settled_by="usage", usage=(40, 7))


async def test_where_the_caller_asked_every_byte_is_as_sent(stages: Stages) -> None:
    events = [*WHOLE, usage(), DONE]
    async with stages([request(), stream(*events), end_of_body()]) as stage:
        client = await ask(stage, stream_options={"include_usage": True})
        assert client.body == b"".join(events)
        assert stage.upstream.requests[0].endswith(stage.last_body)
        await stage.ended(outcome="completed", settled_by="usage", usage=(40, 7))


async def test_other_stream_options_stay(stages: Stages) -> None:
    options = {"include_usage": False, "include_obfuscation": False}
    async with stages([request(), stream(*WHOLE, usage(), DONE), end_of_body()]) as stage:
        client = await ask(stage, stream_options=options)
        assert usage() not in client.body
        assert bodies(stage.upstream)[0]["stream_options"] == {**options, "include_usage": True}


async def test_a_whole_answer_is_charged_by_its_usage(stages: Stages) -> None:
    async with stages([request(), whole(completion_tokens=9)]) as stage:
        client = await ask(stage, stream=False)
        assert json.loads(client.body)["choices"][0]["message"]["content"] == "Hi"
        assert stage.upstream.requests[0].endswith(stage.last_body)
        await stage.ended(outcome="completed", settled_by="usage", usage=(40, 9))


async def test_without_usage_there_is_an_estimate(stages: Stages) -> None:
    async with stages([request(), stream(*WHOLE, DONE), end_of_body()]) as stage:
        await ask(stage)
        await stage.ended(outcome="completed", settled_by="estimate", output_tokens=2)  # of "Hello"


# A refusal of what the gateway added


REFUSES = refusal(b"422 Unprocessable Entity", detail=[{"loc": ["body", "stream_options", "include_usage"]}])


async def test_a_refusal_of_the_added_field_never_reaches_the_caller_and_is_remembered(stages: Stages) -> None:
    reported = chunk({}, "stop", usage=USAGE)
    plain = [request(), stream(*CONTENT, reported, DONE), end_of_body()]
    async with stages([request(), REFUSES, *plain, *plain]) as stage:
        for number in (1, 2):
            client = await ask(stage)
            assert (client.status, client.body) == (200, b"".join([*CONTENT, reported, DONE]))
            await stage.logged(number)
        asked, without, again = bodies(stage.upstream)
        assert asked["stream_options"] == {"include_usage": True}
        assert "stream_options" not in without
        assert "stream_options" not in again
        await wait_until(lambda: len(stage.journal()) == 2)
        assert [(entry["by"], entry["amount"]) for entry in stage.journal()] == [("usage", "-110000")] * 2


async def test_a_refusal_of_something_else_is_the_callers(stages: Stages) -> None:
    async with stages([request(), refusal(b"400 Bad Request", param="messages")]) as stage:
        client = await ask(stage)
        assert (client.status, json.loads(client.body)["error"]["param"]) == (400, "messages")
        assert len(stage.upstream.requests) == 1
        await stage.ended(outcome="upstream_refused")


async def test_a_refusal_of_what_the_caller_sent_is_the_callers(stages: Stages) -> None:
    async with stages([request(), REFUSES]) as stage:
        client = await ask(stage, stream_options={"include_usage": True})
        assert client.status == 422
        assert len(stage.upstream.requests) == 1


# Errors under a 200


@pytest.mark.parametrize("before", [[], [b": queued\n\n"], [chunk(ROLE)], [chunk(), b": queued\n\n", chunk(ROLE)]])
async def test_an_error_before_any_output_goes_to_another_upstream(stages: Stages, before: list[bytes]) -> None:
    events = [*WHOLE, usage(), DONE]
    failing = [request(), stream(*before, error_chunk(code=503), DONE), end_of_body()]
    async with two(stages, failing, [request(), stream(*events), end_of_body()]) as (stage, second):
        client = await ask(stage, stream_options={"include_usage": True})
        assert client.body == b"".join(events)
        assert len(second.requests) == 1
        line = await stage.ended(outcome="completed", settled_by="usage", usage=(40, 7))
        assert line["upstream"] == "second"


async def test_an_error_before_any_output_is_passed_on_where_nobody_does_better(stages: Stages) -> None:
    events = [error_chunk(code=503), DONE]
    async with stages([request(), stream(*events), end_of_body()]) as stage:
        client = await ask(stage)
        assert client.body == b"".join(events)
        await stage.ended(outcome="upstream_refused")


async def test_an_error_in_json_before_any_output_goes_to_another_upstream(stages: Stages) -> None:
    async with two(stages, [request(), refusal(b"200 OK", code=503)], [request(), whole()]) as (stage, _):
        client = await ask(stage, stream=False)
        assert client.status == 200
        await stage.ended(outcome="completed", settled_by="usage", usage=(40, 7))


async def test_an_error_in_json_has_its_own_status_where_nobody_does_better(stages: Stages) -> None:
    async with stages([request(), refusal(b"200 OK", code=429)]) as stage:
        client = await ask(stage, stream=False)
        assert (client.status, json.loads(client.body)["error"]["message"]) == (429, "No.")
        await stage.ended(outcome="upstream_refused")


async def test_an_error_in_mid_stream_is_failed_also_when_done_follows(stages: Stages) -> None:
    events = [*CONTENT, error_chunk(), DONE]
    async with stages([request(), stream(*events), end_of_body()]) as stage:
        client = await ask(stage)
        assert client.body == b"".join(events)
        await stage.ended(outcome="failed", settled_by="estimate", output_tokens=3)


# Endings


async def test_a_clean_end_after_the_last_finish_reason_is_one(stages: Stages) -> None:
    async with stages([request(), stream(*WHOLE, usage()), end_of_body()]) as stage:
        client = await ask(stage)
        assert client.body == b"".join(WHOLE)
        await stage.ended(outcome="completed", settled_by="usage", usage=(40, 7))


@pytest.mark.parametrize("fault", [end_of_body(), reset()], ids=["ends", "resets"])
async def test_a_broken_stream_ends_with_an_error_and_done(stages: Stages, fault: Step) -> None:
    async with stages([request(), stream(*CONTENT), fault]) as stage:
        client = await ask(stage)
        passed, _, ending = client.body.partition(b'data: {"error":')
        assert passed == b"".join(CONTENT)
        error, done = ending.split(b"\n\n", 1)
        assert json.loads(b'{"error":' + error)["error"]["code"] == "upstream_invalid_response"
        assert done == DONE
        await stage.ended(outcome="upstream_cut", settled_by="estimate", output_tokens=3)


async def test_a_choice_that_has_not_finished_is_no_end(stages: Stages) -> None:
    async with stages([request(), stream(*WHOLE, chunk({"content": "x"}, index=1)), end_of_body()]) as stage:
        client = await ask(stage, n=2)
        assert client.body.endswith(DONE)
        await stage.ended(outcome="upstream_cut", settled_by="estimate", output_tokens=5)


async def test_the_sdk_raises_on_a_stream_that_broke_off(stages: Stages) -> None:
    async with stages([request(), stream(*CONTENT), reset()]) as stage:
        seen: list[object] = []
        with pytest.raises(openai.APIError, match="not valid"):
            await stream_with_sdk(stage, seen)
        assert len(seen) == 3


async def test_after_its_end_a_stream_is_waited_for_so_long_and_comments_do_not_renew_it(stages: Stages) -> None:
    comments = [more(b": ping\n\n") for _ in range(3)]
    script = [request(), stream(*WHOLE), *comments, more(usage()), *comments, hang()]
    async with stages(script, upstream={"end_wait_s": 0.1}) as stage:
        client = await ask(stage)
        assert client.body.replace(b": ping\n\n", b"") == b"".join(WHOLE)
        assert client.received.endswith(b"0\r\n\r\n")
        await stage.upstream_left()
        await stage.ended(outcome="completed", settled_by="usage", usage=(40, 7))


# What waits for the output


async def test_what_comes_before_the_output_is_let_go_when_that_takes_long(stages: Stages) -> None:
    go_on, last = asyncio.Event(), chunk({"content": "x"}, "stop")
    async with stages([request(), stream(chunk(ROLE)), wait_for(go_on), more(last, DONE), end_of_body()]) as stage:
        client = await stage.ask(body_of(), path=PATH)
        await client.read_until(chunk(ROLE))
        go_on.set()
        await client.read_all()
        assert client.body == chunk(ROLE) + last + DONE


# Refusals, limits, the hold


async def test_the_hold_is_the_bound_times_the_choices(stages: Stages) -> None:
    async with stages([]) as stage:
        client = await stage.ask(body_of(n=3), path=PATH, headers="x-gateway-dry-run: true\r\n")
        await client.read_all()
        assert json.loads(client.body)["hold"]["output_tokens"] == 150


async def test_an_idempotency_key_runs_once(stages: Stages) -> None:
    async with stages([request(), whole()]) as stage:
        for status in (200, 409):
            client = await stage.ask(body_of(stream=False), path=PATH, headers="idempotency-key: one\r\n")
            await client.read_all()
            assert client.status == status
        assert len(stage.upstream.requests) == 1


async def test_metrics_and_log_name_the_operation(stages: Stages) -> None:
    async with stages([request(), whole()]) as stage:
        await ask(stage, stream=False)
        await wait_until(lambda: bool(stage.log_lines()))
        assert stage.log_lines()[0]["path"] == PATH
