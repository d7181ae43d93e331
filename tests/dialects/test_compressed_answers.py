"""A provider that compresses although it was asked not to: its answers are decoded as they come, in every dialect."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import pytest

from gateway.protocol.stream_decoder import CODINGS
from tests.dialects.conftest import Stages
from tests.dialects.test_endings import ERROR, KINDS, STREAMED, WHOLE, ask, data, settled_once, two
from tests.support.codings import PACKERS, flushing
from tests.support.scenario import JSON, chunk, end_of_body, more, stream
from tests.support.scripted_upstream import Step, answer, close, request, send, wait_for

# Each dialect in one coding, and one dialect in all.
WHOLES: Final = sorted({*zip(WHOLE, CODINGS * 3, strict=False), *(("chat", coding) for coding in CODINGS)})
STREAMS: Final = sorted({*zip(STREAMED, CODINGS * 3, strict=False), *(("chat", coding) for coding in CODINGS)})
LARGE: Final = 3_000_000  # a few hundred times what it is compressed to


def coded_head(coding: str, kind: bytes = b"text/event-stream") -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-encoding: %b\r\ntransfer-encoding: chunked\r\n\r\n"
    return head % (kind, coding.encode())


def coded_json(coding: str, fields: Any, *, status: bytes = b"200 OK", cut: int = 0) -> Step:
    body = PACKERS[coding](json.dumps(fields).encode())
    headers = JSON + b"content-encoding: %b\r\n" % coding.encode()
    return answer(body[: len(body) - cut], status=status, headers=headers)


@pytest.mark.parametrize(("name", "coding"), WHOLES)
async def test_a_json_answer_is_decoded_and_costs_its_usage(stages: Stages, name: str, coding: str) -> None:
    async with stages([request(), coded_json(coding, KINDS[name].whole)]) as scenario:
        client = await ask(scenario, name, streams=False)
        assert (client.status, json.loads(client.body)) == (200, KINDS[name].whole)
        assert client.header("content-encoding") is None
        assert await settled_once(scenario) == "usage"


@pytest.mark.parametrize(("name", "coding"), STREAMS)
async def test_a_stream_is_decoded_event_by_event(stages: Stages, name: str, coding: str) -> None:
    good, pack, seen = KINDS[name].good, flushing(coding), asyncio.Event()
    script = [request(), send(coded_head(coding) + chunk(pack(b"".join(good[:-1])))), wait_for(seen)]
    async with stages([*script, more(pack(good[-1])), end_of_body()]) as scenario:
        client = await scenario.ask(**KINDS[name].request(streams=True))
        await client.read_until(good[-2])  # before the rest was sent
        seen.set()
        await client.read_all()
        assert client.body.startswith(b"".join(good))
        assert await settled_once(scenario) == "usage"


@pytest.mark.parametrize(("name", "coding"), STREAMS)
async def test_a_whole_stream_in_one_read_is_passed_on(stages: Stages, name: str, coding: str) -> None:
    script = [request(), send(coded_head(coding) + chunk(PACKERS[coding](b"".join(KINDS[name].good))) + b"0\r\n\r\n")]
    async with stages(script) as scenario:
        client = await ask(scenario, name, streams=True)
        assert client.body == b"".join(KINDS[name].good)
        await scenario.logged(1)
        assert scenario.log_lines()[0]["outcome"] == "completed"


@pytest.mark.parametrize(("name", "coding"), STREAMS)
@pytest.mark.parametrize("end", ["cut", "corrupt"])
async def test_a_compressed_stream_that_breaks_ends_as_one_that_breaks(
    stages: Stages, name: str, coding: str, end: str
) -> None:
    good, pack = KINDS[name].good, flushing(coding)
    broken = end_of_body() if end == "cut" else more(b"\xff" * 100)
    script = [request(), send(coded_head(coding) + chunk(pack(b"".join(good[:2])[:-5]))), broken, close()]
    plain = [request(), stream(b"".join(good[:2])[:-5]), close()]
    async with stages(script, plain) as scenario:
        clients = []
        for number in (1, 2):
            clients.append(await ask(scenario, name, streams=True))
            await scenario.logged(number)
        coded, plainly = scenario.log_lines()
        assert (coded["outcome"], coded["settled_by"]) == (plainly["outcome"], plainly["settled_by"])
        # Where nothing had been sent when it broke, it is a 502: that depends on which bytes one read has brought.
        assert {client.status for client in clients} <= {200, 502}
        assert clients[0].status == 200 or b"upstream_invalid_response" in clients[0].body
        assert scenario.gateway.balance(scenario.key).held == 0


@pytest.mark.parametrize(("name", "coding"), WHOLES)
async def test_a_compressed_answer_that_is_cut_is_no_answer(stages: Stages, name: str, coding: str) -> None:
    async with stages([request(), coded_json(coding, KINDS[name].whole, cut=3)]) as scenario:
        client = await ask(scenario, name, streams=False)
        assert client.status == 502
        await scenario.logged(1)
        assert scenario.gateway.balance(scenario.key).held == 0
        assert scenario.log_lines()[0]["outcome"] == "upstream_cut"


@pytest.mark.parametrize(("name", "coding"), WHOLES)
async def test_a_compressed_refusal_is_read(stages: Stages, name: str, coding: str) -> None:
    refusal = {"error": {"message": "Too long.", "type": "invalid_request_error", "param": "input", "code": "long"}}
    async with stages([request(), coded_json(coding, refusal, status=b"400 Bad Request")]) as scenario:
        client = await ask(scenario, name, streams=False)
        assert client.status == 400
        assert b"Too long." in client.body


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_compressed_error_before_the_output_goes_to_another_upstream(stages: Stages, coding: str) -> None:
    first = [request(), send(coded_head(coding) + chunk(PACKERS[coding](data(error=ERROR)))), end_of_body()]
    good = KINDS["chat"].good
    async with two(stages, first, [request(), stream(*good), end_of_body()]) as (scenario, other):
        client = await ask(scenario, "chat", streams=True)
        assert (client.body, len(other.requests)) == (b"".join(good), 1)
    busy = [request(), coded_json(coding, {"error": ERROR}, status=b"503 Unavailable")]
    async with two(stages, busy, [request(), stream(*good), end_of_body()]) as (scenario, other):
        client = await ask(scenario, "chat", streams=True)
        assert (client.body, len(other.requests)) == (b"".join(good), 1)


@pytest.mark.parametrize("coding", CODINGS)
async def test_what_an_answer_is_decoded_to_is_bounded(stages: Stages, coding: str) -> None:
    bomb = {**(KINDS["responses"].whole or {}), "text": "a" * LARGE}
    async with stages([request(), coded_json(coding, bomb)], upstream={"max_answer_bytes": 1_000_000}) as scenario:
        client = await ask(scenario, "responses", streams=False)
        assert client.status == 502
    async with stages([request(), coded_json(coding, bomb)], upstream={"max_answer_bytes": LARGE + 1000}) as scenario:
        client = await ask(scenario, "responses", streams=False)
        assert json.loads(client.body) == bomb
