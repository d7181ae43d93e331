"""Each wait has its bound, and each can be cancelled; either way the connection is closed and its place is free."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from gateway.upstream.transport import FaultKind
from tests.contract.conftest import Connect
from tests.support.scripted_upstream import answer, hang, head, request, send, serve
from tests.support.upstream_exchange import fault, fetch, post, read_all
from tests.support.waiting import let_run, wait_until

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address whose backlog is full: connecting to it neither works nor fails."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"
        for filler in fillers:
            filler.close()


@pytest.mark.direct
async def test_connecting_is_bounded(connect: Connect, black_hole: str) -> None:
    transport = connect(black_hole, connect_timeout_s=0.05)
    with fault(FaultKind.CONNECT_TIMEOUT, sent=False):
        await post(transport)
    assert transport.open_connections == 0


async def test_the_wait_for_the_head_is_bounded(connect: Connect) -> None:
    async with serve([request(), hang()]) as upstream:
        transport = connect(upstream.url, first_byte_timeout_s=0.05)
        with fault(FaultKind.FIRST_BYTE_TIMEOUT, sent=True):
            await post(transport)
        await wait_until(lambda: upstream.gone == 1 and transport.open_connections == 0)


async def test_a_head_that_drips_does_not_extend_its_bound(connect: Connect) -> None:
    drip = [send(b"HTTP/1.1 200 OK\r\n"), send(*[b"x: y\r\n"] * 1000)]
    async with serve([request(), *drip]) as upstream:
        with fault(FaultKind.FIRST_BYTE_TIMEOUT, sent=True):
            await post(connect(upstream.url, first_byte_timeout_s=0.1))


async def test_silence_inside_the_body_is_bounded_and_what_came_before_is_kept(connect: Connect) -> None:
    async with serve([request(), send(CHUNKED, b"3\r\none\r\n"), hang()]) as upstream:
        transport = connect(upstream.url, chunk_timeout_s=0.3)
        got = await post(transport)
        assert await got.read() == b"one"
        with fault(FaultKind.CHUNK_TIMEOUT, sent=True):
            await got.read()
        await wait_until(lambda: upstream.gone == 1 and transport.open_connections == 0)
        assert got.read_nowait() == b""


async def test_a_body_may_take_longer_than_the_bound_between_its_chunks(connect: Connect) -> None:
    pieces = [b"1\r\nx\r\n"] * 300  # 2 ms apart
    async with serve([request(), send(CHUNKED, *pieces, b"0\r\n\r\n")]) as upstream:
        assert await fetch(connect(upstream.url, chunk_timeout_s=0.5)) == (200, b"x" * 300)


async def test_a_slow_reader_is_no_silence(connect: Connect) -> None:
    async with serve([request(), send(CHUNKED, b"3\r\none\r\n"), send(b"3\r\ntwo\r\n0\r\n\r\n")]) as upstream:
        got = await post(connect(upstream.url, chunk_timeout_s=0.05))
        await asyncio.sleep(0.15)  # the slowness itself: longer than the bound
        assert await read_all(got) == b"onetwo"


async def cancelled(task: "asyncio.Task[object]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelling_while_connecting_leaks_nothing(connect: Connect, black_hole: str) -> None:
    transport = connect(black_hole)
    sending = asyncio.create_task(post(transport))
    await let_run()
    await cancelled(sending)
    await wait_until(lambda: transport.open_connections == 0)


async def test_cancelling_while_waiting_for_a_connection_leaks_nothing(connect: Connect) -> None:
    async with serve([request(), send(CHUNKED), hang()], [request(), answer(b"next")]) as upstream:
        transport = connect(upstream.url, max_connections=1)
        busy = await post(transport)
        queued = asyncio.create_task(post(transport))
        await let_run()
        await cancelled(queued)
        busy.abort()
        assert await fetch(transport) == (200, b"next")


async def test_cancelling_in_the_turn_in_which_a_connection_came_free_loses_no_place(connect: Connect) -> None:
    # Each of them may be answered before it is cancelled, and its connection then serves the next.
    async with serve([request(), send(CHUNKED), hang()], [request(), answer(b"next")] * 8) as upstream:
        transport = connect(upstream.url, max_connections=1)
        for _ in range(3):
            busy = asyncio.create_task(fetch(transport))
            await wait_until(lambda: transport.open_connections == 1)
            queued = asyncio.create_task(fetch(transport))
            await let_run()
            busy.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            queued.cancel()
            await asyncio.gather(busy, queued, return_exceptions=True)
        assert await fetch(transport) == (200, b"next")
        assert transport.open_connections == 1


async def test_cancelling_while_the_request_is_written_leaks_nothing(connect: Connect) -> None:
    async with serve([head(), send(b"")]) as upstream:
        transport = connect(upstream.url)
        sending = asyncio.create_task(post(transport, b"x" * 20_000_000))
        await wait_until(lambda: len(upstream.requests) == 1)
        await cancelled(sending)
        await wait_until(lambda: upstream.gone == 1 and transport.open_connections == 0)


async def test_cancelling_while_waiting_for_the_head_closes_the_connection(connect: Connect) -> None:
    async with serve([request(), hang()]) as upstream:
        transport = connect(upstream.url)
        sending = asyncio.create_task(post(transport))
        await wait_until(lambda: len(upstream.requests) == 1)
        await cancelled(sending)
        await wait_until(lambda: upstream.gone == 1 and transport.open_connections == 0)


async def test_cancelling_a_read_closes_the_connection(connect: Connect) -> None:
    async with serve([request(), send(CHUNKED, b"1\r\nx\r\n"), hang()]) as upstream:
        transport = connect(upstream.url)
        got = await post(transport)
        assert await got.read() == b"x"
        reading = asyncio.create_task(got.read())
        await let_run()
        await cancelled(reading)
        await wait_until(lambda: upstream.gone == 1 and transport.open_connections == 0)


async def test_abort_closes_the_connection_and_is_idempotent(connect: Connect) -> None:
    async with serve([request(), send(CHUNKED, b"1\r\nx\r\n"), hang()]) as upstream:
        transport = connect(upstream.url)
        got = await post(transport)
        got.abort()
        got.abort()
        await wait_until(lambda: upstream.gone == 1 and transport.open_connections == 0)
        assert got.read_nowait() == b""
        with fault(FaultKind.CUT, sent=True):
            await got.read()


async def test_abort_wakes_a_waiting_reader(connect: Connect) -> None:
    async with serve([request(), send(CHUNKED, b"1\r\nx\r\n"), hang()]) as upstream:
        got = await post(connect(upstream.url))
        assert await got.read() == b"x"
        reading = asyncio.create_task(got.read())
        await let_run()
        got.abort()
        with fault(FaultKind.CUT, sent=True):
            await reading


async def test_abort_after_the_end_leaves_the_connection_to_others(connect: Connect) -> None:
    async with serve([request(), answer(b"1"), request(), answer(b"2")]) as upstream:
        transport = connect(upstream.url)
        got = await post(transport)
        assert await read_all(got) == b"1"
        second = asyncio.create_task(fetch(transport))
        await wait_until(lambda: len(upstream.requests) == 2 or second.done())
        got.abort()
        assert await second == (200, b"2")
    assert upstream.accepted == 1


async def test_cancelling_in_any_turn_of_the_loop_leaks_nothing(connect: Connect) -> None:
    async with serve([request(), send(CHUNKED, b"1\r\nx\r\n", b"0\r\n\r\n")]) as upstream:
        for turns in range(60):
            transport = connect(upstream.url, max_connections=1)
            both = [asyncio.create_task(fetch(transport)), asyncio.create_task(fetch(transport))]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            await wait_until(lambda: transport.open_connections == transport.idle_connections)  # noqa: B023 - awaited
            await transport.close()
        await wait_until(lambda: upstream.open == 0)
