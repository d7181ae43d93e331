"""What is sent to an upstream: one unambiguous request, or nothing."""

import pytest

from tests.contract.conftest import Connect
from tests.support.scripted_upstream import answer, request, serve
from tests.support.upstream_exchange import fetch, read_all


def fields(wire: bytes) -> list[tuple[bytes, bytes]]:
    lines = wire.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]


async def test_a_request_has_the_base_path_the_host_and_the_length(connect: Connect) -> None:
    async with serve([request(), answer(b"")]) as upstream:
        transport = connect(upstream.url + "/base/")
        got = await transport.send(b"POST", b"/v1/x?a=%20b&c", [(b"x-one", b"1"), (b"accept", b"*/*")], b"hello")
        assert await read_all(got) == b""
    wire = upstream.requests[0]
    assert wire.startswith(b"POST /base/v1/x?a=%20b&c HTTP/1.1\r\n")
    assert wire.endswith(b"\r\n\r\nhello")
    assert sorted(fields(wire)) == [
        (b"accept", b"*/*"),
        (b"content-length", b"5"),
        (b"host", upstream.url.removeprefix("http://").encode()),
        (b"x-one", b"1"),
    ]


async def test_a_get_has_no_length_and_an_empty_post_says_zero(connect: Connect) -> None:
    async with serve([request(), answer(b""), request(), answer(b"")]) as upstream:
        transport = connect(upstream.url)
        for method in (b"GET", b"POST"):
            await read_all(await transport.send(method, b"/", [], b""))
    get, post = upstream.requests
    assert b"content-length" not in dict(fields(get))
    assert dict(fields(post))[b"content-length"] == b"0"


@pytest.mark.parametrize("size", [1, 16_384, 16_385, 3_000_000])
async def test_a_body_of_any_size_arrives_whole(connect: Connect, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with serve([request(), answer(b"ok")]) as upstream:
        assert await fetch(connect(upstream.url), body) == (200, b"ok")
    assert upstream.requests[0].partition(b"\r\n\r\n")[2] == body


async def test_hop_by_hop_fields_and_framing_given_by_the_caller_are_dropped(connect: Connect) -> None:
    given = [
        (b"Host", b"elsewhere"),
        (b"Content-Length", b"999"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Connection", b"close, x-kept"),
        (b"Keep-Alive", b"1"),
        (b"Expect", b"100-continue"),
        (b"Upgrade", b"websocket"),
        (b"TE", b"trailers"),
        (b"Trailer", b"x"),
        (b"Proxy-Authorization", b"Basic x"),
        (b"x-kept", b"yes"),
    ]
    async with serve([request(), answer(b"")]) as upstream:
        await read_all(await connect(upstream.url).send(b"POST", b"/", given, b"abc"))
    assert sorted(fields(upstream.requests[0])) == [
        (b"content-length", b"3"),
        (b"host", upstream.url.removeprefix("http://").encode()),
        (b"x-kept", b"yes"),
    ]


@pytest.mark.parametrize(
    ("method", "target", "name", "value"),
    [
        (b"POST\r\n", b"/", b"x", b"1"),
        (b"PO ST", b"/", b"x", b"1"),
        (b"", b"/", b"x", b"1"),
        (b"HEAD", b"/", b"x", b"1"),
        (b"CONNECT", b"/", b"x", b"1"),
        (b"POST", b"", b"x", b"1"),
        (b"POST", b"*", b"x", b"1"),
        (b"POST", b"http://elsewhere/", b"x", b"1"),
        (b"POST", b"/ HTTP/1.1\r\nx: y", b"x", b"1"),
        (b"POST", b"/a b", b"x", b"1"),
        (b"POST", b"/\n", b"x", b"1"),
        (b"POST", b"/\x00", b"x", b"1"),
        (b"POST", b"/\xff", b"x", b"1"),
        (b"POST", b"/#part", b"x", b"1"),
        (b"POST", b"/", b"", b"1"),
        (b"POST", b"/", b"content-length:", b"1"),
        (b"POST", b"/", b"x y", b"1"),
        (b"POST", b"/", b"x\r\n", b"1"),
        (b"POST", b"/", b"x", b"1\r\nx-evil: 1"),
        (b"POST", b"/", b"x", b"1\n"),
        (b"POST", b"/", b"x", b"1\r"),
        (b"POST", b"/", b"x", b"1\x00"),
        (b"POST", b"/", b"x", b"1\x7f"),
    ],
)
async def test_what_could_split_a_request_is_refused_before_anything_is_sent(
    connect: Connect, method: bytes, target: bytes, name: bytes, value: bytes
) -> None:
    async with serve([request(), answer(b"")]) as upstream:
        with pytest.raises(ValueError, match=r"method|target|header"):
            await connect(upstream.url).send(method, target, [(name, value)], b"{}")
    assert upstream.accepted == 0
