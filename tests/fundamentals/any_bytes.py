"""Any bytes in any pieces, sent by a provider in any of HTTP's framings."""

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st

from tests.fundamentals.raw import RawProvider, chunked
from tests.support.effort import effort

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
EXAMPLES = settings(max_examples=effort(60))
FRAGMENTS = st.sampled_from(
    [
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"data: ",
        b"event: ",
        b":",
        b"id: 1\n",
        b"\x00",
        b"\xef\xbb\xbf",
        b"\xff",
        b"[DONE]",
        b'{"type":"response.output_text.delta","delta":"x"}',
        b'{"type":"error"}',
        b"response.completed",
        b"\xe2\x98\x83",
    ]
)
ANYTHING = st.lists(FRAGMENTS | st.binary(max_size=40), max_size=30).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The same bytes in pieces."""
    inside = sorted({place % len(data) for place in places}) if data else []
    return [data[a:b] for a, b in pairwise([0, *inside, len(data)])]


def send(provider: RawProvider, head: bytes, pieces: list[bytes], framing: str) -> None:
    """Makes the provider answer with a body, in one of HTTP's three framings."""
    match framing:
        case "chunked":
            provider.answer(head + b"Transfer-Encoding: chunked\r\n\r\n", chunked(pieces))
        case "length":
            provider.answer(head + b"Content-Length: %d\r\n\r\n" % sum(map(len, pieces)), pieces)
        case _:
            provider.answer(head + b"Connection: close\r\n\r\n", pieces, close=True)


FRAMINGS = st.sampled_from(["chunked", "length", "close"])
PLACES = st.lists(st.integers(0, 10_000), max_size=12)
