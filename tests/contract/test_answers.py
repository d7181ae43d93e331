"""Every legal framing of an answer arrives complete, as the bytes that were sent."""

import asyncio

import pytest

from gateway.upstream.transport import FaultKind
from tests.contract.conftest import Connect
from tests.support.scripted_upstream import answer, close, half_close, request, reset, send, serve, wait_for
from tests.support.upstream_exchange import fault, fetch, post, read_all

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_a_body_with_a_length_arrives_whole(connect: Connect) -> None:
    async with serve([request(), answer(b"hello")]) as upstream:
        assert await fetch(connect(upstream.url)) == (200, b"hello")


async def test_header_names_are_lower_case_and_keep_their_order_and_repetitions(connect: Connect) -> None:
    fields = b"X-B: 1\r\nSet-Cookie: a\r\nX-A:  spaced \r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n"
    async with serve([request(), send(b"HTTP/1.1 201 Created\r\n" + fields)]) as upstream:
        got = await post(connect(upstream.url))
        assert await got.read() == b""
    assert got.status == 201
    assert got.headers == [
        (b"x-b", b"1"),
        (b"set-cookie", b"a"),
        (b"x-a", b"spaced"),
        (b"set-cookie", b"b"),
        (b"content-length", b"0"),
    ]


async def test_chunks_arrive_without_their_framing(connect: Connect) -> None:
    body = b"5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n"
    async with serve([request(), send(CHUNKED, body)]) as upstream:
        assert await fetch(connect(upstream.url)) == (200, b"hello world")


async def test_chunk_extensions_and_trailers_are_not_part_of_the_body(connect: Connect) -> None:
    body = b"5;name=value\r\nhello\r\n0;last\r\nx-checksum: 1\r\nx-more: 2\r\n\r\n"
    async with serve([request(), send(CHUNKED + body), request(), answer(b"next")]) as upstream:
        transport = connect(upstream.url)
        got = await post(transport)
        assert await read_all(got) == b"hello"
        assert got.headers == [(b"transfer-encoding", b"chunked")]
        assert await fetch(transport) == (200, b"next")
    assert upstream.accepted == 1


async def test_a_body_that_comes_byte_by_byte_arrives_whole(connect: Connect) -> None:
    wire = CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"
    async with serve([request(), send(*(wire[i : i + 1] for i in range(len(wire))))]) as upstream:
        assert await fetch(connect(upstream.url)) == (200, b"abc")


async def test_bytes_are_delivered_as_they_come_not_at_the_end(connect: Connect) -> None:
    go_on = asyncio.Event()
    steps = [request(), send(CHUNKED + b"3\r\none\r\n"), wait_for(go_on), send(b"3\r\ntwo\r\n0\r\n\r\n")]
    async with serve(steps) as upstream:
        got = await post(connect(upstream.url))
        assert await got.read() == b"one"
        assert got.read_nowait() == b""
        go_on.set()
        assert await got.read() == b"two"
        assert await got.read() == b""
        assert await got.read() == b""


@pytest.mark.parametrize("ending", [close, half_close])
async def test_a_body_without_a_length_ends_with_its_connection(connect: Connect, ending: type) -> None:
    steps = [request(), send(b"HTTP/1.1 200 OK\r\n\r\nto the", b" end"), ending()]
    async with serve(steps) as upstream:
        transport = connect(upstream.url)
        assert await fetch(transport) == (200, b"to the end")
        assert transport.idle_connections == 0


async def test_a_body_without_a_length_that_is_reset_is_cut(connect: Connect) -> None:
    go_on = asyncio.Event()
    steps = [request(), send(b"HTTP/1.1 200 OK\r\n\r\nhalf"), wait_for(go_on), reset()]
    async with serve(steps) as upstream:
        got = await post(connect(upstream.url))
        assert await got.read() == b"half"
        go_on.set()
        with fault(FaultKind.CUT, sent=True):
            await got.read()


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_that_have_no_body_end_at_their_head(connect: Connect, status: bytes) -> None:
    bare = send(b"HTTP/1.1 " + status + b"\r\netag: 1\r\n\r\n")
    async with serve([request(), bare, request(), answer(b"next")]) as upstream:
        transport = connect(upstream.url)
        assert await fetch(transport) == (int(status[:3]), b"")
        assert await fetch(transport) == (200, b"next")
    assert upstream.accepted == 1


async def test_informational_answers_are_swallowed(connect: Connect) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    async with serve([request(), send(early, b"HTTP/1.1 102 Processing\r\n\r\n"), answer(b"real")]) as upstream:
        got = await post(connect(upstream.url))
        assert got.status == 200
        assert got.headers == [(b"content-length", b"4")]
        assert await read_all(got) == b"real"


async def test_an_error_status_is_an_answer_like_any_other(connect: Connect) -> None:
    steps = [request(), answer(b"slow down", status=b"429 Too Many Requests", headers=b"retry-after: 3\r\n")]
    async with serve(steps) as upstream:
        got = await post(connect(upstream.url))
        assert got.status == 429
        assert (b"retry-after", b"3") in got.headers
        assert await read_all(got) == b"slow down"
