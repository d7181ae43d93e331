"""Routes with `early_keepalive_s`: a stream begins before its provider has answered, in every dialect that streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Final

import openai
import pytest
import uvicorn

from gateway.app import Gateway
from gateway.config.settings import Settings
from gateway.server import server_config
from tests.dialects.conftest import Stages
from tests.dialects.test_endings import KINDS, STREAMED, two
from tests.support import gateway as support
from tests.support.scenario import DONE, JSON, MODEL, RawClient, Scenario, end_of_body, stream
from tests.support.scripted_upstream import Step, answer, hang, request, reset, wait_for
from tests.support.waiting import wait_until

COMMENT: Final = b": keep-alive\n\n"
EARLY: Final = {"early_keepalive_s": 0.05}
REFUSAL: Final = {"message": "Too many.", "type": "rate_limit_error", "param": "input", "code": "slow_down"}


@pytest.fixture(params=["own", "h11"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's own connections, and those of another server."""

    def config_of(settings: Settings, app: Gateway) -> uvicorn.Config:
        config = server_config(settings, app)
        if request.param != "own":
            config.http = request.param
        return config

    monkeypatch.setattr(support, "server_config", config_of)


async def begun(scenario: Scenario, name: str, **more: Any) -> RawClient:
    """A client whose stream has begun, before its provider has said anything."""
    client = await scenario.ask(**KINDS[name].request(streams=True), **more)
    await client.read_until(COMMENT + b"\r\n" if b"chunked" in client.received else COMMENT)
    assert client.status == 200
    assert client.header("content-type") == "text/event-stream; charset=utf-8"
    return client


def without_comments(body: bytes) -> bytes:
    return body.replace(COMMENT, b"")


def error_in(body: bytes) -> dict[str, Any]:
    """The error of the stream's first error event, in whichever form."""
    for block in without_comments(body).split(b"\n\n"):
        for line in block.split(b"\n"):
            if line.startswith(b"data: {"):
                fields = json.loads(line[6:])
                if isinstance(error := fields.get("error"), dict):
                    return error
    raise AssertionError(body)


@pytest.mark.parametrize("name", STREAMED)
async def test_comments_come_before_the_providers_head_and_then_its_events(
    server: None, stages: Stages, name: str
) -> None:
    good, go = KINDS[name].good, asyncio.Event()
    async with stages([request(), wait_for(go), stream(*good), end_of_body()], route=EARLY) as scenario:
        client = await begun(scenario, name)
        await client.read_until(COMMENT + b"\r\ne\r\n" + COMMENT)  # one more, as long as nothing else comes
        go.set()
        await client.read_all()
        assert without_comments(client.body) == b"".join(good)
        assert client.body.startswith(COMMENT)
        await scenario.logged(1)
        line = scenario.log_lines()[0]
        assert (line["status"], line["outcome"], line["settled_by"]) == (200, "completed", "usage")
        assert line["first_byte_ms"] >= line["open_ms"]


@pytest.mark.parametrize("name", STREAMED)
async def test_a_late_refusal_is_the_streams_error_event(server: None, stages: Stages, name: str) -> None:
    go = asyncio.Event()
    refusing = answer(json.dumps({"error": REFUSAL}).encode(), status=b"429 Too Many", headers=JSON)
    async with stages([request(), wait_for(go), refusing], route=EARLY, limits={}) as scenario:
        client = await begun(scenario, name)
        go.set()
        await client.read_all()
        assert error_in(client.body)["message"] == "Too many."
        assert client.received.endswith(b"0\r\n\r\n")
        await scenario.logged(1)
        line = scenario.log_lines()[0]
        assert (line["status"], line["upstream_status"], line["outcome"]) == (429, 429, "upstream_refused")
        assert (await scenario.settled())[0]["type"] == "void"
        assert scenario.gateway.balance(scenario.key).held == 0


@pytest.mark.parametrize(
    ("script", "code", "status"),
    [
        ([reset()], "upstream_unreachable", 502),
        ([answer(b"<html>", headers=b"content-type: text/html\r\n")], "upstream_invalid_response", 502),
        ([answer(json.dumps(KINDS["responses"].whole).encode(), headers=JSON)], "upstream_invalid_response", 502),
        ([answer(b"{}", status=b"401 Unauthorized", headers=JSON)], "upstream_rejected_gateway", 502),
    ],
    ids=["reset", "a page", "a whole answer", "the gateway's account"],
)
async def test_what_is_no_stream_is_an_error_event(
    server: None, stages: Stages, script: list[Step], code: str, status: int
) -> None:
    go = asyncio.Event()
    async with stages([request(), wait_for(go), *script], route=EARLY, limits={}) as scenario:
        client = await begun(scenario, "responses")
        go.set()
        await client.read_all()
        assert error_in(client.body)["code"] == code
        assert client.body.endswith(DONE)
        await scenario.logged(1)
        assert scenario.log_lines()[0]["status"] == status
        assert scenario.gateway.balance(scenario.key).held == 0


async def test_other_upstreams_are_asked_although_the_stream_has_begun(server: None, stages: Stages) -> None:
    go, good = asyncio.Event(), KINDS["chat"].good
    failing = [request(), wait_for(go), answer(b"{}", status=b"503 Unavailable", headers=JSON)]
    async with two(stages, failing, [request(), stream(*good), end_of_body()], **EARLY) as (scenario, other):
        client = await begun(scenario, "chat")
        go.set()
        await client.read_all()
        assert (without_comments(client.body), len(other.requests)) == (b"".join(good), 1)


async def test_a_refused_request_may_be_repeated_under_its_idempotency_key(stages: Stages) -> None:
    go, good = asyncio.Event(), KINDS["responses"].good
    refusing = answer(json.dumps({"error": REFUSAL}).encode(), status=b"400 Bad Request", headers=JSON)
    script = [request(), wait_for(go), refusing, request(), stream(*good), end_of_body()]
    async with stages(script, route=EARLY, limits={}) as scenario:
        client = await begun(scenario, "responses", headers="idempotency-key: one\r\n")
        go.set()
        await client.read_all()
        await scenario.logged(1)
        again = await scenario.ask(**KINDS["responses"].request(streams=True), headers="idempotency-key: one\r\n")
        await again.read_all()
        assert without_comments(again.body) == b"".join(good)


async def test_the_sdk_raises_a_late_refusal(stages: Stages) -> None:
    refusing = answer(json.dumps({"error": REFUSAL}).encode(), status=b"400 Bad Request", headers=JSON)

    async def later(_peer: Any) -> None:
        await asyncio.sleep(0.2)  # in which the stream begins

    async with stages([request(), later, refusing], route=EARLY, limits={}) as scenario:
        with pytest.raises(openai.APIError, match="Too many"):
            async for _ in await scenario.sdk().responses.create(model=MODEL, input="hello", stream=True):
                pass


async def test_a_client_that_leaves_while_it_waits_leaves_nothing_held(server: None, stages: Stages) -> None:
    async with stages([request(), hang()], route=EARLY, upstream={"on_client_leave": "abort"}) as scenario:
        client = await begun(scenario, "responses")
        client.leave()
        await scenario.logged(1)
        assert scenario.log_lines()[0]["outcome"] == "client_left"
        assert scenario.gateway.balance(scenario.key).held == 0
        await wait_until(lambda: scenario.upstream.gone == 1)


@pytest.mark.parametrize("route", [{}, EARLY], ids=["off", "a whole answer was asked for"])
async def test_nothing_comes_early_where_it_is_not_asked_for(stages: Stages, route: dict[str, Any]) -> None:
    go = asyncio.Event()
    refusing = answer(json.dumps({"error": REFUSAL}).encode(), status=b"400 Bad Request", headers=JSON)
    async with stages([request(), wait_for(go), refusing], route=route, limits={}) as scenario:
        client = await scenario.ask(**KINDS["responses"].request(streams=not route))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):  # in which something would come
                await client.read_until(b"\n")
        assert not client.received
        go.set()
        await client.read_all()
        assert client.status == 400


async def test_a_kept_stream_begins_early_too(stages: Stages) -> None:
    go, good = asyncio.Event(), KINDS["responses"].good
    script = [request(), wait_for(go), stream(*good), end_of_body()]
    async with stages(script, route={**EARLY, "state": "gateway"}, limits={}) as scenario:
        client = await begun(scenario, "responses")
        go.set()
        await client.read_all()
        assert b"response.completed" in client.body
