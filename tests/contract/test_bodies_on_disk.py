"""A body on disk reaches the upstream as one in memory does, a piece at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.concurrency.disk_body import DiskBody, Edit, SentBody
from gateway.concurrency.off_loop import OffLoop
from gateway.upstream.transport import FaultKind, UpstreamFault
from tests.contract.conftest import Connect
from tests.support.scripted_upstream import Peer, Step, answer, half_close, hang, head, request, reset, serve
from tests.support.upstream_exchange import read_all
from tests.support.waiting import wait_until

DATA = bytes(range(256)) * 8_000
CHANGED = DATA[:300_000] + b"other" + DATA[300_001:]


@pytest.fixture
def off_loop() -> Iterator[OffLoop]:
    threads = OffLoop(1)
    yield threads
    threads.close()


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[DiskBody]:
    body = DiskBody(tmp_path)
    body.write(DATA)
    yield body
    body.close()


class Counted:
    """A body that counts what is read of it, and can be waited for."""

    def __init__(self, body: DiskBody) -> None:
        self.read_bytes = 0
        self._body = body

    def __len__(self) -> int:
        return len(self._body)

    def read(self, start: int, end: int) -> bytes:
        piece = self._body.read(start, end)
        self.read_bytes += len(piece)
        return piece


def body_of(wire: bytes) -> bytes:
    return wire.partition(b"\r\n\r\n")[2]


async def test_it_arrives_with_its_place_changed_and_the_connection_is_used_again(
    connect: Connect, on_disk: DiskBody, off_loop: OffLoop
) -> None:
    sent = SentBody(on_disk, off_loop, Edit(300_000, 300_001, b"other"))
    async with serve([request(), answer(b"one"), request(), answer(b"two")]) as upstream:
        transport = connect(upstream.url)
        assert await read_all(await transport.send(b"POST", b"/", [], sent)) == b"one"
        assert await read_all(await transport.send(b"POST", b"/", [], sent)) == b"two"
        assert upstream.accepted == 1
    assert [body_of(wire) == CHANGED for wire in upstream.requests] == [True, True]


async def test_a_request_that_is_replayed_is_read_again(connect: Connect, on_disk: DiskBody, off_loop: OffLoop) -> None:
    sent = SentBody(on_disk, off_loop)
    async with serve([request(), answer(b""), head(), reset()], [request(), answer(b"again")]) as upstream:
        transport = connect(upstream.url)
        await read_all(await transport.send(b"POST", b"/", [], b"first"))
        assert await read_all(await transport.send(b"POST", b"/", [], sent)) == b"again"
    assert body_of(upstream.requests[-1]) == DATA


@pytest.mark.direct
async def test_no_more_is_read_than_the_upstream_takes(connect: Connect, on_disk: DiskBody, off_loop: OffLoop) -> None:
    counted, goes_on = Counted(on_disk), asyncio.Event()
    for _ in range(6):
        on_disk.write(DATA)  # more than the buffers of both sockets

    async def stand_still(peer: Peer) -> None:
        await goes_on.wait()
        peer.upstream.requests.append(await peer.reader.readexactly(len(counted)))

    async with serve([head(), stand_still, answer(b"ok")]) as upstream:
        sending = asyncio.create_task(connect(upstream.url).send(b"POST", b"/", [], SentBody(counted, off_loop)))
        seen = -1
        while seen != counted.read_bytes or not seen:
            seen = counted.read_bytes
            await asyncio.sleep(0.2)  # nothing tells that no more is read
        assert seen < len(counted)
        goes_on.set()
        assert await read_all(await sending) == b"ok"
        assert counted.read_bytes == len(counted)


async def test_an_answer_before_the_whole_body_ends_the_reading(
    connect: Connect, on_disk: DiskBody, off_loop: OffLoop
) -> None:
    counted = Counted(on_disk)
    for _ in range(6):
        on_disk.write(DATA)
    # It does not close its socket: with unread bytes in it, that would be a reset, which may overtake the answer.
    script = [head(), answer(b"no", status=b"413 Content Too Large"), half_close(), hang()]
    async with serve(script) as upstream:
        got = await connect(upstream.url).send(b"POST", b"/", [], SentBody(counted, off_loop))
        assert (got.status, await read_all(got)) == (413, b"no")
        seen = counted.read_bytes
    assert seen < len(counted)


@pytest.mark.parametrize("steps", [(request(), answer(b"")), ()], ids=["a used connection", "a new one"])
async def test_a_body_that_cannot_be_read_is_a_fault_of_the_gateway(
    connect: Connect, on_disk: DiskBody, off_loop: OffLoop, steps: tuple[Step, ...]
) -> None:
    async with serve([*steps, head()]) as upstream:
        transport = connect(upstream.url)
        if steps:
            await read_all(await transport.send(b"POST", b"/", [], b""))
        on_disk.close()
        with pytest.raises(UpstreamFault) as caught:
            await transport.send(b"POST", b"/", [], SentBody(on_disk, off_loop))
        assert caught.value.kind is FaultKind.BODY_LOST
        await wait_until(lambda: upstream.gone >= 1, what="the half request is given up")
