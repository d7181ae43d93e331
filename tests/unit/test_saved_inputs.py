"""Whatever bytes come, they are read or refused: from inputs that are saved, and from random changes of these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.http.parser import RequestParser
from gateway.protocol.dialects.chat import CHAT
from gateway.protocol.dialects.dialect import Dialect, StreamForm
from gateway.protocol.dialects.responses import RESPONSES
from gateway.protocol.request_body import read_request_body
from gateway.protocol.sse_observer import SseObserver
from gateway.protocol.token_estimates import estimate_input_tokens

SAVED: Final = Path(__file__).parents[1] / "data" / "saved_inputs"
DIALECTS: Final = (RESPONSES, CHAT)


def saved(kind: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((SAVED / kind).iterdir())]


def each(kind: str) -> pytest.MarkDecorator:
    paths = sorted((SAVED / kind).iterdir())
    return pytest.mark.parametrize("data", [path.read_bytes() for path in paths], ids=[path.name for path in paths])


@st.composite
def changed(draw: st.DrawFn, kind: str) -> bytes:
    """A saved input with a few of its parts taken out, doubled, or replaced by bytes or by parts of others."""
    data = draw(st.sampled_from(saved(kind)))[:2_000]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        other = draw(st.sampled_from(saved(kind)))
        cut = draw(st.integers(0, len(other)))
        between = draw(st.sampled_from((b"", data[start:end] * 2, other[cut : cut + 40])) | st.binary(max_size=8))
        data = data[:start] + between + data[end:]
    return data


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The bytes in pieces of these sizes, the rest in one."""
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


SIZES = st.lists(st.integers(1, 50), max_size=20)
DIALECT = st.sampled_from(DIALECTS)


def read_a_request(data: bytes, dialect: Dialect) -> None:
    try:
        read = read_request_body(data, dialect.request, needs_input=True)
    except GatewayError as refused:
        assert refused.status == 400  # noqa: PT017 - the others were read
        return
    assert read.model
    assert estimate_input_tokens(data) >= 0


@each("requests")
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_saved_request_is_read_or_refused(data: bytes, dialect: Dialect) -> None:
    read_a_request(data, dialect)


@given(changed("requests"), DIALECT)
def test_any_request_is_read_or_refused(data: bytes, dialect: Dialect) -> None:
    read_a_request(data, dialect)


def observe_a_stream(data: bytes, sizes: list[int], dialect: Dialect, bound: int) -> None:
    observer = SseObserver(cast("StreamForm", dialect.stream), bound)
    written = b"".join([*(observer.feed(piece) for piece in pieces(data, sizes)), observer.finish()])
    assert written == data
    assert observer.output_tokens_estimate() >= 0
    assert observer.facts is not None


@each("streams")
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_saved_stream_passes_unchanged(data: bytes, dialect: Dialect) -> None:
    observe_a_stream(data, [], dialect, 1 << 20)
    observe_a_stream(data, [1] * len(data), dialect, 1 << 20)


@given(changed("streams"), SIZES, DIALECT, st.sampled_from((30, 1 << 20)))
def test_any_stream_passes_unchanged(data: bytes, sizes: list[int], dialect: Dialect, bound: int) -> None:
    observe_a_stream(data, sizes, dialect, bound)


class Seen:
    """Whose bytes they are: what was seen of them."""

    def __init__(self) -> None:
        self.heads = 0
        self.ends = 0
        self.body = b""

    def on_head(self) -> None:
        self.heads += 1

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_end(self) -> None:
        self.ends += 1


def parse(data: bytes, sizes: list[int]) -> tuple[int, int, bytes, str]:
    seen = Seen()
    parser = RequestParser(seen, 4096, 100)
    code = ""
    try:
        for piece in pieces(data, sizes):
            left = piece
            while left:
                rest = parser.feed(left)
                assert len(rest) < len(left)
                left = rest
    except GatewayError as refused:
        code = refused.code
    parser.close()
    assert seen.ends <= seen.heads
    return seen.heads, seen.ends, seen.body, code


@each("heads")
def test_a_saved_head_is_read_or_refused(data: bytes) -> None:
    for sizes in ([], [1] * len(data)):
        assert parse(data, sizes)[3] in ("", "invalid_http", "headers_too_large")


@given(changed("heads"), SIZES)
def test_any_head_is_read_or_refused(data: bytes, sizes: list[int]) -> None:
    assert parse(data, sizes)[3] in ("", "invalid_http", "headers_too_large")
