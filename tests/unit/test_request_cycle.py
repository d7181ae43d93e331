"""A request's way to its client, on a connection that only notes what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.detached import Detached
from gateway.http.request_cycle import HIGH_WATER_BYTES, BodyReader, RequestCycle
from gateway.types import Body


class NoBudget:
    """Of which nothing is taken."""

    is_scarce = False


class NotedConnection:
    """Notes whether it reads."""

    write_paused = False
    on_leave: Callable[[], Any] | None = None
    transport: asyncio.Transport
    counted_bytes = 0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.transport = asyncio.Transport()
        self.budget = NoBudget()
        self._reads = True

    def is_reading(self) -> bool:
        return self._reads

    def server_headers(self) -> bytes:
        return b""

    def resume_reading(self) -> None:
        self._reads = True

    def pause_reading(self) -> None:
        self._reads = False

    def read_directly(self, begun: Body, length: int) -> BodyReader:
        raise NotImplementedError

    async def drain(self) -> None:
        raise NotImplementedError

    def answered(self, cycle: RequestCycle) -> None:
        raise NotImplementedError

    def count_unverified(self) -> None:
        raise NotImplementedError

    def detach(self, cycle: RequestCycle) -> Detached:
        raise NotImplementedError


def new_cycle(connection: NotedConnection) -> RequestCycle:
    return RequestCycle(connection, {"headers": []}, {}, keep_alive=True)


async def test_a_body_that_nobody_takes_pauses_reading() -> None:
    connection = NotedConnection(asyncio.get_running_loop())
    cycle = new_cycle(connection)
    piece = b"x" * 1024
    for _ in range(HIGH_WATER_BYTES // len(piece)):
        cycle.add(piece)
        assert connection.is_reading()
    cycle.add(piece)
    assert not connection.is_reading()
    reading = asyncio.create_task(cycle.read_body(None, 10 * HIGH_WATER_BYTES))
    await asyncio.sleep(0)
    assert connection.is_reading(), "somebody takes it"
    cycle.complete = True
    cycle.wake()
    body = await reading
    assert body is not None
    assert len(body) == HIGH_WATER_BYTES + len(piece)


async def test_a_body_pauses_reading_behind_the_piece_that_was_waited_for() -> None:
    """What one turn of the loop reads from a socket that has more is not all of it."""
    connection = NotedConnection(asyncio.get_running_loop())
    cycle = new_cycle(connection)
    reading = asyncio.create_task(cycle.receive())
    await asyncio.sleep(0)
    cycle.add(b"x" * (HIGH_WATER_BYTES + 1))
    assert connection.is_reading(), "somebody waited for it"
    cycle.add(b"x")
    assert not connection.is_reading()
    assert len((await reading)["body"]) == HIGH_WATER_BYTES + 2


@pytest.mark.parametrize("place", ["name", "value"])
@given(before=st.binary(max_size=3), control=st.sampled_from([*range(9), *range(10, 32), 127]))
def test_no_header_writes_another(place: str, before: bytes, control: int) -> None:
    with asyncio.Runner() as runner:
        cycle = new_cycle(NotedConnection(runner.get_loop()))
        text = before + bytes([control]) + b"set-cookie: a=b"
        field = (text, b"v") if place == "name" else (b"x-request-id", text)
        with pytest.raises(RuntimeError):
            cycle.start(200, [(b"content-length", b"0"), field])
        assert not cycle.started
