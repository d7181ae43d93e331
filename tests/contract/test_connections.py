"""Connections are reused where that is safe, bounded in number, and closed when they are not wanted."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from gateway.upstream.transport import FaultKind
from tests.contract.conftest import Connect
from tests.support.scripted_upstream import Peer, Step, answer, close, hang, request, reset, send, serve, wait_for
from tests.support.upstream_exchange import fault, fetch, post, read_all
from tests.support.waiting import let_run, wait_until

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_one_connection_serves_requests_one_after_another(connect: Connect) -> None:
    async with serve(
        [request(), answer(b"1"), request(), send(CHUNKED, b"1\r\n2\r\n0\r\n\r\n"), request(), answer(b"3")]
    ) as up:
        transport = connect(up.url)
        assert [(await fetch(transport))[1] for _ in range(3)] == [b"1", b"2", b"3"]
        assert (transport.open_connections, transport.idle_connections) == (1, 1)
    assert up.accepted == 1


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: Foo, Close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
)
async def test_an_upstream_that_wants_no_reuse_gets_none(connect: Connect, wire: bytes) -> None:
    async with serve([request(), send(wire), hang()]) as upstream:
        transport = connect(upstream.url)
        assert await fetch(transport) == (200, b"ok")
        await wait_until(lambda: upstream.gone == 1)
        assert transport.open_connections == 0
        assert await fetch(transport) == (200, b"ok")
    assert upstream.accepted == 2


@pytest.mark.parametrize("ending", [close, reset])
async def test_a_reused_connection_that_dies_before_any_answer_byte_is_retried_on_a_new_one(
    connect: Connect, ending: type
) -> None:
    async with serve([request(), answer(b"1"), request(), ending()], [request(), answer(b"2")]) as upstream:
        transport = connect(upstream.url)
        assert await fetch(transport) == (200, b"1")
        assert await fetch(transport, b"again") == (200, b"2")
    assert upstream.accepted == 2
    assert [wire[-5:] for wire in upstream.requests[1:]] == [b"again", b"again"]


def later(event: asyncio.Event, ending: Step) -> list[Step]:
    """Answers one request; ends the next one's connection when the test says so."""
    return [request(), answer(b"1"), request(), wait_for(event), ending]


@pytest.mark.parametrize("ending", [close, reset])
@pytest.mark.parametrize(("within_s", "wait_s"), [(0.1, 0.3), (0.0, 0.0)], ids=["too late", "never"])
async def test_a_post_that_a_server_may_have_worked_on_is_not_sent_again(
    connect: Connect, ending: Callable[[], Step], within_s: float, wait_s: float
) -> None:
    """Only a death that comes before a server can have done anything is the race for a kept connection."""
    dies = asyncio.Event()
    async with serve(later(dies, ending()), [request(), answer(b"2")]) as upstream:
        transport = connect(upstream.url, replay_within_s=within_s)
        assert await fetch(transport) == (200, b"1")
        asked = asyncio.create_task(post(transport, b"again"))
        await wait_until(lambda: len(upstream.requests) == 2)
        await asyncio.sleep(wait_s)  # the bound is a time: the server works for longer
        dies.set()
        with fault(FaultKind.RESET, sent=True):
            await asked
    assert len(upstream.requests) == 2


async def test_a_request_that_means_the_same_twice_is_sent_again_however_late(connect: Connect) -> None:
    dies = asyncio.Event()
    async with serve(later(dies, close()), [request(), answer(b"2")]) as upstream:
        transport = connect(upstream.url, replay_within_s=0.0)
        assert await fetch(transport) == (200, b"1")
        asked = asyncio.create_task(transport.send(b"GET", b"/responses/resp_1", [], b""))
        await wait_until(lambda: len(upstream.requests) == 2)
        dies.set()
        found = await asked
        assert await found.read() == b"2"


async def test_a_request_is_retried_only_once(connect: Connect) -> None:
    async with serve([request(), answer(b"1"), request(), close()], [request(), close()]) as upstream:
        transport = connect(upstream.url)
        assert await fetch(transport) == (200, b"1")
        with fault(FaultKind.RESET, sent=True):
            await post(transport)
    assert upstream.accepted == 2


@pytest.mark.parametrize("bounds", [{}, {"max_connections": 3}], ids=["room for more", "full"])
async def test_a_retry_does_not_take_another_connection_that_has_been_idle(
    connect: Connect, bounds: dict[str, int]
) -> None:
    """All of them may be dead: behind a firewall that has forgotten them, or an upstream that was started again."""
    go_on = asyncio.Event()
    dying = [request(), wait_for(go_on), answer(b"1"), request(), reset()]
    async with serve(dying, dying, dying, [request(), answer(b"2")]) as upstream:
        transport = connect(upstream.url, **bounds)
        running = [asyncio.create_task(fetch(transport)) for _ in range(3)]
        await wait_until(lambda: len(upstream.requests) == 3)
        go_on.set()
        await asyncio.gather(*running)
        assert transport.idle_connections == 3
        assert await fetch(transport, b"again") == (200, b"2")
    assert [wire[-5:] for wire in upstream.requests[3:]] == [b"again", b"again"]


@pytest.mark.direct
async def test_a_retry_that_cannot_connect_says_that_the_request_was_sent(connect: Connect) -> None:
    async def leave_for_good(peer: Peer) -> None:
        peer.upstream.stop()
        peer.writer.close()

    async with serve([request(), answer(b"1"), request(), leave_for_good]) as upstream:
        transport = connect(upstream.url)
        assert await fetch(transport) == (200, b"1")
        with fault(FaultKind.CONNECT, sent=True):
            await post(transport)


async def test_an_idle_connection_that_the_upstream_closed_is_not_used(connect: Connect) -> None:
    async with serve([request(), answer(b"1"), close()], [request(), answer(b"2")]) as upstream:
        transport = connect(upstream.url)
        assert await fetch(transport) == (200, b"1")
        await wait_until(lambda: upstream.gone == 1)
        assert await fetch(transport) == (200, b"2")
    assert len(upstream.requests) == 2


async def test_callers_beyond_max_connections_wait_their_turn(connect: Connect) -> None:
    async with serve([step for n in range(5) for step in (request(), answer(b"%d" % n))]) as upstream:
        transport = connect(upstream.url, max_connections=1)
        got = await asyncio.gather(*(fetch(transport) for _ in range(5)))
        assert [body for _, body in got] == [b"0", b"1", b"2", b"3", b"4"]
    assert upstream.accepted == 1


async def test_a_caller_waits_for_a_connection_no_longer_than_the_connect_timeout(connect: Connect) -> None:
    async with serve([request(), send(CHUNKED, b"1\r\nx\r\n"), hang()]) as upstream:
        transport = connect(upstream.url, max_connections=1, connect_timeout_s=1.0)
        busy = await post(transport)
        with fault(FaultKind.POOL_FULL, sent=False):
            await post(transport)
        busy.abort()
    assert upstream.accepted == 1


async def test_an_aborted_answer_makes_room_for_the_next_caller(connect: Connect) -> None:
    async with serve([request(), send(CHUNKED), hang()], [request(), answer(b"next")]) as upstream:
        transport = connect(upstream.url, max_connections=1)
        busy = await post(transport)
        queued = asyncio.create_task(fetch(transport))
        await let_run()
        busy.abort()
        assert await queued == (200, b"next")


async def test_no_more_than_max_idle_connections_are_kept(connect: Connect) -> None:
    go_on = asyncio.Event()
    async with serve([request(), wait_for(go_on), answer(b"")]) as upstream:
        transport = connect(upstream.url, max_idle=2)
        running = [asyncio.create_task(fetch(transport)) for _ in range(5)]
        await wait_until(lambda: len(upstream.requests) == 5)
        assert transport.open_connections == 5
        go_on.set()
        await asyncio.gather(*running)
        await wait_until(lambda: transport.open_connections == 2 and upstream.open == 2)
        assert transport.idle_connections == 2


async def test_closing_ends_running_answers_and_refuses_new_requests(connect: Connect) -> None:
    async with serve([request(), send(CHUNKED, b"1\r\nx\r\n"), hang()]) as upstream:
        transport = connect(upstream.url)
        got = await post(transport)
        assert await got.read() == b"x"
        reading = asyncio.create_task(got.read())
        await let_run()
        await transport.close()
        with fault(FaultKind.CUT, sent=True):
            await reading
        await wait_until(lambda: upstream.gone == 1)
        with fault(FaultKind.CONNECT, sent=False):
            await post(transport)
        await transport.close()
        assert transport.open_connections == 0


@pytest.mark.direct
async def test_a_refused_connection_is_a_connect_fault(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with fault(FaultKind.CONNECT, sent=False):
        await post(connect(f"http://127.0.0.1:{port}"))


@pytest.mark.direct
async def test_an_unknown_host_is_a_connect_fault(connect: Connect) -> None:
    with fault(FaultKind.CONNECT, sent=False):
        await post(connect("http://upstream.invalid"))


async def test_a_host_name_with_several_addresses_is_reached_by_the_one_that_answers(connect: Connect) -> None:
    async with serve([request(), answer(b"ok")]) as upstream:
        transport = connect(upstream.url.replace("127.0.0.1", "localhost"))
        assert await fetch(transport) == (200, b"ok")


async def test_a_large_answer_that_nobody_reads_stops_the_upstream(connect: Connect) -> None:
    size = 32 * 1024 * 1024
    sent = 0

    async def pour(peer: Peer) -> None:
        nonlocal sent
        writer = peer.writer
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with serve([request(), pour, request(), answer(b"next")]) as upstream:
        transport = connect(upstream.url)
        got = await post(transport)
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)  # in which nothing more is taken
        assert sent < size // 2
        assert len(await read_all(got)) == size
        assert await fetch(transport) == (200, b"next")
    assert upstream.accepted == 1
