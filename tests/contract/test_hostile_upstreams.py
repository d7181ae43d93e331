"""What is not HTTP, or is ambiguous, is a fault and never an answer, and bounds hold."""

import asyncio
import itertools

import pytest

from gateway.upstream.transport import FaultKind
from tests.contract.conftest import Connect
from tests.support.scripted_upstream import Peer, Step, answer, close, request, reset, send, serve
from tests.support.upstream_exchange import fault, fetch, post, read_all

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.9\r\n\r\n", id="another protocol"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x28", id="a TLS alert"),
        pytest.param(b"<html>hello</html>\r\n\r\n", id="no status line"),
        pytest.param(OK + b"no colon here\r\n\r\n", id="a header line without a colon"),
        pytest.param(OK + b"bad name: 1\r\n\r\n", id="a header name with a space"),
        pytest.param(OK + b"x: a\x00b\r\n\r\n", id="a NUL in a header"),
        pytest.param(OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", id="two lengths"),
        pytest.param(OK + b"content-length: -1\r\n\r\n", id="a negative length"),
        pytest.param(OK + b"content-length: 1,2\r\n\r\na", id="a list of lengths"),
        pytest.param(OK + b"content-length: 99999999999999999999999\r\n\r\n", id="a length beyond 64 bits"),
        pytest.param(
            OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", id="length, then chunked"
        ),
        pytest.param(
            OK + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n", id="chunked, then length"
        ),
        pytest.param(OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="a coding that we cannot undo"),
        pytest.param(OK + b"transfer-encoding: gzip\r\n\r\n", id="a coding without chunks"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", id="an upgrade"),
        pytest.param(b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n", id="a status that does not exist"),
    ],
)
async def test_what_is_not_plain_http_is_a_protocol_fault(connect: Connect, wire: bytes) -> None:
    async with serve([request(), send(wire)]) as upstream:
        with fault(FaultKind.PROTOCOL, sent=True):
            await post(connect(upstream.url))
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("size", [b"x", b"-1", b"5 5", b"f" * 25])
async def test_a_bad_chunk_size_is_a_protocol_fault_after_the_good_bytes(connect: Connect, size: bytes) -> None:
    async with serve([request(), send(CHUNKED, b"2\r\nok\r\n", size + b"\r\nrest\r\n")]) as upstream:
        got = await post(connect(upstream.url))
        assert await got.read() == b"ok"
        with fault(FaultKind.PROTOCOL, sent=True):
            await got.read()
        with fault(FaultKind.PROTOCOL, sent=True):
            await got.read()


@pytest.mark.parametrize("ending", [close, reset])
@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(OK + b"content-length: 10\r\n\r\nhalf", id="within its length"),
        pytest.param(CHUNKED + b"a\r\nhalf", id="within a chunk"),
        pytest.param(CHUNKED + b"4\r\nhalf\r\n", id="between chunks"),
    ],
)
async def test_a_body_that_ends_too_early_is_cut_after_its_bytes(connect: Connect, wire: bytes, ending: type) -> None:
    async with serve([request(), send(wire, b""), ending()]) as upstream:
        got = await post(connect(upstream.url))
        assert await got.read() == b"half"
        with fault(FaultKind.CUT, sent=True):
            await got.read()


@pytest.mark.parametrize("ending", [close, reset])
@pytest.mark.parametrize("wire", [b"", b"HTTP/1.1 200 OK\r\nx-half: "])
async def test_a_new_connection_that_dies_before_the_head_is_reset_and_not_retried(
    connect: Connect, wire: bytes, ending: type
) -> None:
    async with serve([request(), send(wire), ending()]) as upstream:
        with fault(FaultKind.RESET, sent=True):
            await post(connect(upstream.url))
    assert upstream.accepted == 1


def send_forever(start: bytes, filler: bytes) -> Step:
    async def step(peer: Peer) -> None:
        peer.writer.write(start)
        for _ in itertools.count():
            peer.writer.write(filler)
            await peer.writer.drain()

    return step


@pytest.mark.parametrize(
    ("start", "filler"),
    [
        pytest.param(OK, b"x-more: " + b"y" * 1000 + b"\r\n", id="headers"),
        pytest.param(OK + b"x-endless: ", b"y" * 1000, id="one header"),
    ],
)
async def test_an_endless_head_is_too_large(connect: Connect, start: bytes, filler: bytes) -> None:
    async with serve([request(), send_forever(start, filler)]) as upstream:
        with fault(FaultKind.TOO_LARGE, sent=True):
            await post(connect(upstream.url))


async def test_a_head_beyond_its_bound_is_too_large_though_the_body_came_with_it(connect: Connect) -> None:
    wire = OK + b"x-large: " + b"y" * 5000 + b"\r\ncontent-length: 2\r\n\r\nok"
    async with serve([request(), send(wire)]) as upstream:
        with fault(FaultKind.TOO_LARGE, sent=True):
            await post(connect(upstream.url, max_head_bytes=4000))
        assert await fetch(connect(upstream.url, max_head_bytes=6000)) == (200, b"ok")


async def test_a_small_head_with_a_large_body_in_one_read_is_not_too_large(connect: Connect) -> None:
    async with serve([request(), answer(b"z" * 60_000)]) as upstream:
        assert await fetch(connect(upstream.url, max_head_bytes=1000)) == (200, b"z" * 60_000)


@pytest.mark.parametrize("extra", [b"surplus", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"])
@pytest.mark.parametrize("framed", [OK + b"content-length: 2\r\n\r\nok", CHUNKED + b"2\r\nok\r\n0\r\n\r\n"])
async def test_bytes_after_the_end_never_become_the_next_answer(connect: Connect, framed: bytes, extra: bytes) -> None:
    async with serve([request(), send(framed + extra)], [request(), answer(b"good")]) as upstream:
        transport = connect(upstream.url)
        assert await fetch(transport) == (200, b"ok")
        assert await fetch(transport) == (200, b"good")
    assert upstream.accepted == 2


async def test_a_connection_that_speaks_while_idle_is_not_used_again(connect: Connect) -> None:
    late = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
    steps = [request(), send(OK + b"content-length: 2\r\n\r\nok", late)]
    async with serve(steps, [request(), answer(b"good")]) as upstream:
        transport = connect(upstream.url)
        assert await fetch(transport) == (200, b"ok")
        await asyncio.sleep(0.02)  # the bytes arrive: no transport says so before it is asked again
        assert await fetch(transport) == (200, b"good")
    assert upstream.accepted == 2


async def test_an_answer_in_one_piece_with_an_early_cut_still_shows_its_head(connect: Connect) -> None:
    async with serve([request(), send(OK + b"content-length: 9\r\n\r\n"), close()]) as upstream:
        got = await post(connect(upstream.url))
        assert got.status == 200
        with fault(FaultKind.CUT, sent=True):
            await read_all(got)
