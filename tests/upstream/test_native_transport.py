"""What only the native transport promises: early answers, prompt idle handling, flat memory, a cheap warm path."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop

from gateway.upstream.pool import NativeTransport
from gateway.upstream.transport import FaultKind, TransportConfig, UpstreamFault
from tests.support.scripted_upstream import Peer, answer, close, hang, head, request, send, serve, wait_for
from tests.support.upstream_exchange import fault, fetch, post, read_all
from tests.support.waiting import let_run, wait_until

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
Native = Callable[..., NativeTransport]


@pytest.fixture
async def native() -> AsyncIterator[Native]:
    built: list[NativeTransport] = []

    def build(url: str, **settings: Any) -> NativeTransport:
        built.append(NativeTransport(TransportConfig(base_url=url, **settings)))
        return built[-1]

    yield build
    for transport in built:
        await transport.close()
        assert transport.open_connections == 0


async def test_an_answer_that_comes_before_the_whole_request_was_written_is_delivered(native: Native) -> None:
    refusal = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig"
    async with serve([head(), send(refusal)]) as upstream:
        transport = native(upstream.url)
        assert await fetch(transport, b"x" * 20_000_000) == (413, b"big")  # more than socket buffers take
        assert transport.idle_connections == 0
        await wait_until(lambda: transport.open_connections == 0)


async def test_idle_connections_expire(native: Native) -> None:
    go_on = asyncio.Event()
    async with serve([request(), wait_for(go_on), answer(b"")]) as upstream:
        transport = native(upstream.url, idle_expiry_s=0.05)
        running = [asyncio.create_task(fetch(transport)) for _ in range(3)]
        await wait_until(lambda: len(upstream.requests) == 3)
        go_on.set()
        await asyncio.gather(*running)
        assert transport.idle_connections == 3
        await wait_until(lambda: transport.open_connections == 0 and upstream.open == 0)


async def test_an_idle_connection_that_the_upstream_closes_is_dropped_at_once(native: Native) -> None:
    go_on = asyncio.Event()
    async with serve([request(), answer(b""), wait_for(go_on), close()]) as upstream:
        transport = native(upstream.url)
        await fetch(transport)
        assert transport.idle_connections == 1
        go_on.set()
        await wait_until(lambda: transport.open_connections == transport.idle_connections == 0)


async def test_an_idle_connection_that_receives_bytes_is_dropped_at_once(native: Native) -> None:
    go_on = asyncio.Event()
    async with serve([request(), answer(b""), wait_for(go_on), send(b"x"), hang()]) as upstream:
        transport = native(upstream.url)
        await fetch(transport)
        go_on.set()
        await wait_until(lambda: transport.open_connections == 0 and upstream.gone == 1)


async def test_the_connection_used_last_is_reused_first(native: Native) -> None:
    go_on = asyncio.Event()
    early = [request(), answer(b"early"), request(), answer(b"early again")]
    late = [request(), wait_for(go_on), answer(b"late"), request(), answer(b"late again")]
    async with serve(early, late) as upstream:
        transport = native(upstream.url)
        both = asyncio.gather(fetch(transport), fetch(transport))
        await wait_until(lambda: transport.idle_connections == 1)
        go_on.set()
        await both
        assert transport.idle_connections == 2
        assert await fetch(transport) == (200, b"late again")


async def test_an_upstream_that_speaks_first_is_a_protocol_fault(native: Native) -> None:
    async with serve([send(b"220 mail.example ESMTP\r\n"), hang()]) as upstream:
        with pytest.raises(UpstreamFault) as caught:
            await post(native(upstream.url))
    assert caught.value.kind is FaultKind.PROTOCOL


async def test_unread_bytes_stay_near_their_bound_and_all_arrive(native: Native) -> None:
    size = 24 * 1024 * 1024
    async with serve([request(), answer(b"x" * size)]) as upstream:
        got = await post(native(upstream.url, max_unread_bytes=100_000))
        await asyncio.sleep(0.1)  # bytes arrive until reading pauses: nothing tells
        buffered = len(got.read_nowait())
        assert 100_000 < buffered < 100_000 + 2 * 256 * 1024  # one or two reads beyond the bound
        assert buffered + len(await read_all(got)) == size


async def test_one_read_returns_all_that_has_arrived(native: Native) -> None:
    all_sent = asyncio.Event()

    async def tell(_peer: Peer) -> None:
        all_sent.set()

    async with serve([request(), send(CHUNKED, *[b"2\r\nab\r\n"] * 20), tell]) as upstream:
        got = await post(native(upstream.url))
        await all_sent.wait()
        await let_run()
        assert await got.read() == b"ab" * 20


async def test_a_second_reader_is_refused(native: Native) -> None:
    async with serve([request(), send(CHUNKED), hang()]) as upstream:
        got = await post(native(upstream.url))
        reading = asyncio.create_task(got.read())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one reader"):
            await got.read()
        got.abort()
        with fault(FaultKind.CUT, sent=True):
            await reading


async def test_a_warm_request_creates_no_task_and_opens_no_connection(native: Native) -> None:
    created: list[Any] = []

    def counting(loop: asyncio.AbstractEventLoop, coroutine: Any, **names: Any) -> "asyncio.Task[Any]":
        created.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **names)

    async with serve([step for _ in range(20) for step in (request(), answer(b"ok"))]) as upstream:
        transport = native(upstream.url)
        await fetch(transport)
        asyncio.get_running_loop().set_task_factory(counting)
        for _ in range(10):
            assert await fetch(transport) == (200, b"ok")
        asyncio.get_running_loop().set_task_factory(None)
    assert created == []
    assert upstream.accepted == 1


async def test_a_retry_in_a_full_pool_waits_for_a_place(native: Native) -> None:
    async with serve(
        [request(), answer(b"1"), request(), close()], [request(), answer(b"2"), request(), answer(b"3")]
    ) as upstream:
        transport = native(upstream.url, max_connections=1)
        assert await fetch(transport) == (200, b"1")
        got = await asyncio.gather(fetch(transport), fetch(transport))
        assert sorted(body for _, body in got) == [b"2", b"3"]
    assert upstream.accepted == 2


def test_a_transport_may_be_built_outside_of_a_loop_and_used_inside() -> None:
    async def use() -> tuple[int, bytes]:
        async with serve([request(), answer(b"ok")]) as upstream:
            transport = NativeTransport(TransportConfig(base_url=upstream.url))
            try:
                return await fetch(transport)
            finally:
                await transport.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(use()) == (200, b"ok")
