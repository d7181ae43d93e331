"""Whatever the framing and wherever the network cuts it, the body arrives as the same bytes."""

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.conftest import Connect
from tests.support.effort import effort
from tests.support.scripted_upstream import Peer, serve
from tests.support.upstream_exchange import fetch

EXTENSIONS = st.sampled_from([b"", b";x", b";name=value", b';q="a;b"'])
TRAILERS = st.sampled_from([b"", b"x-trailer: 1\r\n", b"a: b\r\nc: d\r\n"])


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes, bool]:
    pieces = draw(st.lists(st.binary(min_size=1, max_size=200), max_size=8))
    wire = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), draw(EXTENSIONS), piece) for piece in pieces)
    wire += b"0" + draw(EXTENSIONS) + b"\r\n" + draw(TRAILERS) + b"\r\n"
    return b"transfer-encoding: chunked\r\n\r\n" + wire, b"".join(pieces), False


BODIES = st.binary(max_size=2000)
WITH_LENGTH = BODIES.map(lambda body: (b"content-length: %d\r\n\r\n%b" % (len(body), body), body, False))
TO_THE_END = BODIES.map(lambda body: (b"\r\n" + body, body, True))


def cut(wire: bytes, places: list[int]) -> Iterator[bytes]:
    start = 0
    for place in sorted({place % len(wire) for place in places}):
        yield wire[start:place]
        start = place
    yield wire[start:]


@settings(max_examples=effort(50))
@given(st.one_of(chunked(), WITH_LENGTH, TO_THE_END), st.lists(st.integers(min_value=0), max_size=12))
async def test_any_body_in_any_framing_arrives_as_the_same_bytes(
    connect: Connect, framed: tuple[bytes, bytes, bool], places: list[int]
) -> None:
    wire, body, to_the_end = framed

    async def answer_in_pieces(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n{}")
        for piece in cut(b"HTTP/1.1 200 OK\r\n" + wire, places):
            peer.writer.write(piece)  # without Nagle's algorithm, and mostly one read each
            await peer.writer.drain()
        if to_the_end:
            peer.writer.close()

    async with serve([answer_in_pieces, answer_in_pieces]) as upstream:
        transport = connect(upstream.url)
        assert await fetch(transport) == (200, body)
        assert await fetch(transport) == (200, body)
        assert upstream.accepted == (2 if to_the_end else 1)
        await transport.close()
