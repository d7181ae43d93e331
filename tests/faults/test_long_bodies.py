"""Long bodies of known length are read straight into their buffer, past the parser.

From outside, nothing of that is seen.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http import connection
from gateway.http.body_reader import DirectBodyReader
from tests.faults.conftest import Stages
from tests.support.effort import effort
from tests.support.scenario import RawClient, Scenario, body_of
from tests.support.waiting import wait_until

SHORT = body_of()
LONG = body_of(input="".join(f"{number:07d} " for number in range(50_000)))
SERVER = {"port": 0, "body_timeout_s": 1, "max_body_bytes": 20_000_000}


@pytest.fixture
async def scenario(stages: Stages) -> AsyncIterator[Scenario]:
    async with stages(server=SERVER, limits={}) as scenario:
        yield scenario


def head(scenario: Scenario, body: bytes, *lines: str) -> bytes:
    fields = [f"authorization: Bearer {scenario.key.text}", f"content-length: {len(body)}", *lines]
    return "\r\n".join(["POST /v1/responses HTTP/1.1", "host: gateway", *fields, "", ""]).encode()


def sent(scenario: Scenario) -> list[bytes]:
    """Returns the bodies that the upstream has received."""
    return [one.partition(b"\r\n\r\n")[2] for one in scenario.upstream.requests]


async def answered(client: RawClient, status: int = 200) -> None:
    """Reads one JSON answer."""
    await client.read_until(b"\r\n\r\n")
    assert client.status == status
    length = int(client.header("content-length") or 0)
    await wait_until_read(client, length)
    client.received.clear()


async def wait_until_read(client: RawClient, length: int) -> None:
    while len(client.received) - client.received.index(b"\r\n\r\n") - 4 < length:
        client.received += await client.reader.read(65_536)


@pytest.mark.parametrize("cuts", [(), (1,), (100_000, 300_000), (399_000,), (262_144, 262_145)], ids=str)
async def test_it_arrives_as_it_was_sent_however_it_is_cut(scenario: Scenario, cuts: tuple[int, ...]) -> None:
    client = await scenario.connect()
    await client.send(head(scenario, LONG))
    for start, end in zip((0, *cuts), (*cuts, len(LONG)), strict=True):
        await client.send(LONG[start:end])
        await asyncio.sleep(0.02)  # apart on the wire
    await answered(client)
    assert sent(scenario)[-1] == LONG


async def test_one_that_is_longer_than_what_memory_is_taken_for_at_once_arrives(scenario: Scenario) -> None:
    body = body_of(input="0123456789abcdef" * 500_000)
    client = await scenario.connect()
    await client.send(head(scenario, body) + body)
    await answered(client)
    assert sent(scenario)[-1] == body


async def test_what_is_sent_right_behind_it_is_the_next_request(scenario: Scenario) -> None:
    client = await scenario.connect()
    for _ in range(2):
        await client.send(head(scenario, LONG) + LONG + head(scenario, SHORT) + SHORT)
    for _ in range(4):
        await answered(client)
    assert sent(scenario) == [LONG, SHORT] * 2


async def test_a_client_that_asks_first_is_told_to_go_on(scenario: Scenario) -> None:
    client = await scenario.connect()
    await client.send(head(scenario, LONG, "expect: 100-continue"))
    await client.read_until(b"100 Continue\r\n\r\n")
    client.received.clear()
    await client.send(LONG)
    await answered(client)
    assert sent(scenario)[-1] == LONG


async def test_one_that_does_not_go_on_is_given_up(scenario: Scenario) -> None:
    client = await scenario.connect()
    await client.send(head(scenario, LONG) + LONG[:300_000])
    await answered(client, 408)
    await client.read_all()  # and the connection ends
    assert sent(scenario) == []


@pytest.mark.parametrize("way", ["resets", "ends its side"])
async def test_a_client_that_leaves_inside_it_leaves_nothing_behind(scenario: Scenario, way: str) -> None:
    client = await scenario.connect()
    await client.send(head(scenario, LONG) + LONG[:300_000])
    if way == "resets":
        client.leave()
    else:
        client.writer.write_eof()
    await wait_until(lambda: scenario.gateway.server.connections == 0, what="the connection is gone")
    await wait_until(lambda: bool(scenario.log_lines()), what="the request has ended")
    assert scenario.log_lines()[0]["outcome"] == "client_left"
    assert scenario.upstream.requests == []


async def test_what_is_no_json_is_refused_with_its_place(scenario: Scenario) -> None:
    body = LONG[:-1] + b"!"
    client = await scenario.connect()
    await client.send(head(scenario, body) + body)
    await client.read_until(b"invalid_json")
    assert client.status == 400


async def test_a_renamed_model_changes_no_other_byte(stages: Stages) -> None:
    async with stages(server=SERVER, route={"rename": "other"}) as scenario:
        client = await scenario.connect()
        await client.send(head(scenario, LONG) + LONG)
        await answered(client)
        assert json.loads(sent(scenario)[-1]) == {**json.loads(LONG), "model": "other"}


async def test_it_and_no_short_one_is_read_past_the_parser(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    class Counted(DirectBodyReader):
        def __init__(self, owner: Any, begun: bytes, length: int) -> None:
            lengths.append(length)
            super().__init__(owner, begun, length)

    monkeypatch.setattr(connection, "DirectBodyReader", Counted)
    client = await scenario.connect()
    for body in (SHORT, LONG):
        await client.send(head(scenario, body) + body[:10])
        await asyncio.sleep(0.02)  # apart on the wire
        await client.send(body[10:])
        await answered(client)
    assert lengths == [len(LONG)]


class Whole:
    """The owner of a body that is being read."""

    def __init__(self) -> None:
        self.bodies = 0

    def body_read(self) -> None:
        self.bodies += 1

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was not called for")


@settings(max_examples=effort(100))
@given(data=st.binary(min_size=2, max_size=2000), begun=st.integers(0, 1999), reads=st.lists(st.integers(1, 700)))
def test_the_reader_takes_no_byte_beyond_the_length(data: bytes, begun: int, reads: list[int]) -> None:
    begun = min(begun, len(data) - 1)
    owner = Whole()
    reader = DirectBodyReader(owner, data[:begun], len(data))
    at = begun
    for size in [*reads, *[2000] * 3]:
        if at == len(data):
            break
        assert owner.bodies == 0
        place = reader.get_buffer(-1)
        took = min(size, len(place))
        place[:took] = data[at : at + took]
        at += took
        reader.buffer_updated(took)
    assert (bytes(reader.stop()), owner.bodies, at) == (data, 1, len(data))
    assert not reader.body, "a connection would keep it until its next long body"


def test_a_length_alone_takes_little_memory() -> None:
    reader = DirectBodyReader(Whole(), b"{", 500_000_000)
    assert len(reader.body) <= 8 * 1024 * 1024


def test_a_body_that_nobody_wants_any_more_takes_none() -> None:
    owner = Whole()
    reader = DirectBodyReader(owner, b"{", 10_000_000)
    reader.stop()
    reader.stop()
    left = 10_000_000 - 1
    while left:
        took = len(reader.get_buffer(-1))
        assert 0 < took <= 64 * 1024
        reader.buffer_updated(took)
        left -= took
    assert owner.bodies == 1
