"""Compressed bodies are decoded within bounds, and a client that still sends can read why it was refused."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import pytest

from gateway.protocol.stream_decoder import CODINGS
from tests.faults.conftest import Stages
from tests.faults.raw_requests import SERVER, exchange, head
from tests.support.codings import PACKERS
from tests.support.scenario import Scenario, body_of

BODY = body_of()


@pytest.fixture
async def scenario(stages: Stages) -> AsyncIterator[Scenario]:
    async with stages(server=SERVER) as scenario:
        yield scenario


@pytest.mark.parametrize("encoding", ["identity, gzip", "compress", "zstd, zstd"])
async def test_a_body_in_another_coding_is_refused_and_told_which_are_taken(scenario: Scenario, encoding: str) -> None:
    client = await exchange(
        scenario, head(scenario, f"content-encoding: {encoding}", f"content-length: {len(BODY)}") + BODY
    )
    assert (client.status, client.header("accept-encoding")) == (415, "gzip, deflate, br, zstd")


@pytest.mark.parametrize("encoding", [*CODINGS, "x-gzip", "GZIP", "ZSTD", "identity", "none", ""])
async def test_a_compressed_body_reaches_the_upstream_as_it_was_before(scenario: Scenario, encoding: str) -> None:
    coded = BODY
    if "gzip" in encoding.lower():
        coded = gzip.compress(BODY)
    elif encoding.lower() in PACKERS:
        coded = PACKERS[encoding.lower()](BODY)
    client = await exchange(
        scenario, head(scenario, f"content-encoding: {encoding}", f"content-length: {len(coded)}") + coded
    )
    assert client.status == 200
    assert scenario.upstream.requests[-1].partition(b"\r\n\r\n")[2] == BODY


@pytest.mark.parametrize("size", [550_000, 700_000], ids=["just too large for its ratio", "too large"])
@pytest.mark.parametrize("coding", PACKERS)
async def test_a_body_that_grows_too_much_is_refused(stages: Stages, size: int, coding: str) -> None:
    coded = PACKERS[coding](body_of(input=" " * size * (1 if size > 600_000 else 40)))
    async with stages(server={**SERVER, "max_body_bytes": 600_000 if size > 600_000 else 32_000_000}) as scenario:
        client = await exchange(
            scenario, head(scenario, f"content-encoding: {coding}", f"content-length: {len(coded)}") + coded
        )
        assert client.status == 413


@pytest.mark.parametrize("way", ["reads first", "sends first"])
async def test_a_refusal_is_not_lost_to_a_reset(scenario: Scenario, way: str) -> None:
    """A client that goes on sending behind what was refused reads its answer all the same."""
    for piece in (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 100_000, b"no http\r\n" + b"a" * 1_000_000):
        client = await scenario.connect()
        client.writer.write(piece)
        if way == "sends first":
            await asyncio.sleep(0.1)  # in which the refusal comes
            client.writer.write(b"a" * 1_000_000)
        assert b"x-request-id" in (await client.read_all()) or client.status in (400, 431)
        assert json.loads(client.body)["error"]["code"] in ("headers_too_large", "invalid_http")


async def test_a_closing_client_that_sends_too_much_reads_why(scenario: Scenario) -> None:
    client = await scenario.connect()
    client.writer.write(head(scenario, "connection: close", "content-length: 600001") + b" " * 600_001)
    await client.read_all()
    assert (client.status, json.loads(client.body)["error"]["code"]) == (413, "body_too_large")


async def test_an_http_1_0_client_gets_no_interim_answer(scenario: Scenario) -> None:
    client = await scenario.connect()
    fields = f"authorization: Bearer {scenario.key.text}\r\nexpect: 100-continue\r\ncontent-length: {len(BODY)}"
    await client.send(f"POST /v1/responses HTTP/1.0\r\n{fields}\r\n\r\n".encode())
    await asyncio.sleep(0.1)  # in which nothing must come: there is nothing to wait for
    await client.send(BODY)
    assert (await client.read_all()).startswith(b"HTTP/1.1 200")
