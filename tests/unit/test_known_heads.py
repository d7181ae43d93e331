"""Heads that are like the one before but for their length are recognised, and mean what the parser reads."""

from __future__ import annotations

import itertools
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.http.known_head import KnownHead, ParsedHead
from gateway.http.parser import RequestParser
from gateway.types import Headers
from tests.support.effort import effort

BOUND: Final = 600
PLAIN: Final = b"POST /v1/responses HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nAuthorization: Bearer x\r\n\r\n"
HEADS: Final = (
    PLAIN,
    b"POST /v1/responses HTTP/1.1\r\ncontent-length:%b\r\nhost: a\r\n\r\n",
    b"POST /v1/responses?a=b HTTP/1.1\r\nHost: a\r\nCONTENT-LENGTH:  %b\r\n\r\n",
    b"POST /%%41 HTTP/1.1\r\nHost: a\r\nX-Content-Length: 3\r\nContent-Length: %b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nX: content-length: 3\r\nContent-Length: %b\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nX: " + b"y" * 520 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nContent-Length: 3\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nConnection: close\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: %b\r\n\r\n",
    b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: %b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Length: %b\r\n\r\n",
)
ODD: Final = (
    b"0",
    b"007",
    b"",
    b"+5",
    b"-5",
    b"5 ",
    b" 5",
    b"5\t",
    b"5,5",
    b"5\n",
    b"0x5",
    b"5a",
    b"9" * 15,
    b"9" * 16,
)
USUAL: Final = st.sampled_from((b"1", b"5", b"12"))
RUN: Final = st.tuples(st.sampled_from(HEADS), st.lists(USUAL, max_size=3), st.one_of(USUAL, st.sampled_from(ODD)))
"""Requests with the same head, of which the last one's length may be anything."""
CUTS: Final = st.lists(st.integers(0, 5000), max_size=3)


class Seen:
    """The connection that the bytes come from: what the parser told it, in order."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.parser = RequestParser(self, BOUND, 20)

    def on_head(self) -> None:
        self.told.append(self.parser.head[:-1])

    def on_body(self, body: bytes) -> None:
        if self.told and isinstance(self.told[-1], bytes):
            self.told[-1] += bytes(body)
        else:
            self.told.append(bytes(body))

    def on_end(self) -> None:
        self.told.append("end")

    def feed(self, data: bytes) -> None:
        try:
            while data:
                data = self.parser.feed(data)
        except GatewayError as error:
            self.told.append(error.code)
            raise


def told(wire: list[bytes], *, remembers: bool) -> list[object]:
    seen = Seen()
    with pytest.MonkeyPatch.context() as patched:
        if not remembers:
            patched.setattr(KnownHead, "of", lambda *_: None)
        try:
            for piece in wire:
                seen.feed(piece)
        except GatewayError:
            pass
    return seen.told


@settings(max_examples=effort(300))
@given(runs=st.lists(RUN, min_size=1, max_size=4), cuts=CUTS, at_once=st.booleans())
@example(runs=[(HEADS[0], [b"5", b"5", b"1"], b"+5")], cuts=[], at_once=False)
@example(runs=[(HEADS[0], [b"5", b"5"], b"9" * 16)], cuts=[], at_once=False)
@example(runs=[(HEADS[8], [b"5", b"5"], b"5")], cuts=[], at_once=False)
def test_a_head_that_is_recognised_means_what_the_parser_reads(
    runs: list[tuple[bytes, list[bytes], bytes]], cuts: list[int], *, at_once: bool
) -> None:
    each = [
        head % length + (b"x" * int(length) if length.isdigit() and len(length) <= len(b"007") else b"")
        for head, lengths, last in runs
        for length in (*lengths, last)
    ]
    whole = b"".join(each)
    places = sorted({cut % (len(whole) + 1) for cut in cuts} | {0, len(whole)})
    wire = [whole[begin:end] for begin, end in itertools.pairwise(places)] if at_once else each
    assert told(wire, remembers=True) == told(wire, remembers=False)


def test_from_the_third_request_on_a_head_is_recognised() -> None:
    seen = Seen()
    facts = []
    for length in (b"3", b"4", b"5", b"6"):
        seen.feed(PLAIN % length + b"x" * int(length))
        facts.append(id(seen.parser.head.facts))
    assert facts[0] != facts[1] == facts[2] == facts[3], "what follows from the second is known of the later ones"
    assert [one for one in seen.told if isinstance(one, bytes)] == [b"x" * size for size in (3, 4, 5, 6)]


def test_a_connection_whose_heads_all_differ_stops_to_remember_them() -> None:
    seen = Seen()
    for number in range(6):
        seen.feed(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx" % number)
    same = b"POST /same HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
    for _ in range(3):
        seen.feed(same)
    assert seen.parser._known is None  # noqa: SLF001 - nothing else shows it


def test_each_request_has_headers_of_its_own() -> None:
    headers: Headers = [(b"host", b"a"), (b"content-length", b"5")]
    parsed = ParsedHead("POST", "/", b"/", b"", "1.1", True, headers, dict(headers), {})
    known = KnownHead.of(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", parsed)
    assert known is not None
    first, second = known.with_length(b"6"), known.with_length(b"7")
    first.headers.clear()
    first.fields.clear()
    assert second.headers == [(b"host", b"a"), (b"content-length", b"7")]
    assert second.fields == dict(second.headers)
    assert parsed.headers == headers


def test_a_head_that_could_outgrow_the_bound_is_parsed_each_time() -> None:
    seen = Seen()
    long = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nX: %b\r\n\r\n"
    room = BOUND - len(long % (b"1", b""))
    for _ in range(3):
        seen.feed(long % (b"1", b"y" * room) + b"x")
    with pytest.raises(GatewayError, match="bytes at most"):
        seen.feed(long % (b"0000001", b"y" * room))
