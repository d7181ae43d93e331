"""`Answer.pump`: the same bytes, ends and faults as reading, without waking a task for each read."""

import asyncio

import pytest

from gateway.upstream.transport import Answer, FaultKind
from tests.contract.conftest import Connect
from tests.support.scripted_upstream import answer, hang, request, reset, send, serve, wait_for
from tests.support.upstream_exchange import fault, fetch, post, read_all
from tests.support.waiting import wait_until

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Taker:
    """Keeps what it receives, and refuses the piece that contains `enough`."""

    def __init__(self, enough: bytes = b"\0") -> None:
        self.data = b""
        self._enough = enough

    def __call__(self, data: bytes) -> bool:
        self.data += data
        return self._enough not in data


async def pumped_to(got: Answer, taker: Taker, text: bytes) -> "asyncio.Task[bool]":
    """Starts pumping; returns when `text` has come."""
    pumping = asyncio.create_task(got.pump(taker))
    await wait_until(lambda: taker.data == text)
    return pumping


async def test_all_bytes_are_handed_over_in_order_and_the_connection_is_used_again(connect: Connect) -> None:
    more = asyncio.Event()
    parts = (b"1\r\na\r\n", b"1\r\nb\r\n")
    steps = [
        request(),
        send(CHUNKED, *parts),
        wait_for(more),
        send(b"1\r\nc\r\n", b"0\r\n\r\n"),
        request(),
        answer(b"x"),
    ]
    async with serve(steps) as upstream:
        transport, taker = connect(upstream.url), Taker()
        pumping = await pumped_to(await post(transport), taker, b"ab")
        more.set()
        assert await pumping is False, "the clean end"
        assert taker.data == b"abc"
        assert await fetch(transport) == (200, b"x")
    assert upstream.accepted == 1


async def test_a_taker_that_has_enough_leaves_the_rest_to_be_read(connect: Connect) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    steps = [request(), send(CHUNKED, b"1\r\na\r\n"), wait_for(first), send(b"1\r\nb\r\n"), wait_for(second)]
    async with serve([*steps, send(b"1\r\nc\r\n0\r\n\r\n")]) as upstream:
        got, taker = await post(connect(upstream.url)), Taker(enough=b"b")
        pumping = await pumped_to(got, taker, b"a")
        first.set()
        assert await pumping is True
        second.set()
        assert await read_all(got) == b"c"
        assert taker.data == b"ab"


async def test_a_stream_that_dies_is_cut_behind_its_bytes(connect: Connect) -> None:
    more = asyncio.Event()
    async with serve([request(), send(CHUNKED, b"1\r\na\r\n"), wait_for(more), reset()]) as upstream:
        taker = Taker()
        pumping = await pumped_to(await post(connect(upstream.url)), taker, b"a")
        more.set()
        with fault(FaultKind.CUT, sent=True):
            await pumping


async def test_a_stream_that_stands_still_between_reads_times_out(connect: Connect) -> None:
    more = asyncio.Event()
    async with serve(
        [request(), send(CHUNKED, b"1\r\na\r\n"), wait_for(more), send(b"1\r\nb\r\n"), hang()]
    ) as upstream:
        taker = Taker()
        pumping = await pumped_to(await post(connect(upstream.url, chunk_timeout_s=0.2)), taker, b"a")
        more.set()
        with fault(FaultKind.CHUNK_TIMEOUT, sent=True):
            await pumping
        assert taker.data == b"ab"


async def test_what_a_taker_raises_comes_out_of_the_pump(connect: Connect) -> None:
    more = asyncio.Event()

    def fragile(data: bytes) -> bool:
        if b"b" in data:
            raise LookupError(data)
        return True

    async with serve(
        [request(), send(CHUNKED, b"1\r\na\r\n"), wait_for(more), send(b"1\r\nb\r\n"), hang()]
    ) as upstream:
        got = await post(connect(upstream.url))
        pumping = asyncio.create_task(got.pump(fragile))
        await wait_until(lambda: len(upstream.requests) == 1)
        more.set()
        with pytest.raises(LookupError):
            await pumping
        got.abort()


async def test_a_cancelled_pump_closes_its_connection(connect: Connect) -> None:
    async with serve([request(), send(CHUNKED, b"1\r\na\r\n"), hang()]) as upstream:
        pumping = await pumped_to(await post(connect(upstream.url)), Taker(), b"a")
        pumping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pumping
        await wait_until(lambda: upstream.open == 0)
