"""How much of a body has to be understood is bounded before it is parsed."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.protocol import body_bounds
from gateway.protocol.body_bounds import BodyBounds, check_bounds
from gateway.protocol.dialects.responses import RESPONSES
from gateway.protocol.request_body import read_request_body

MEGABYTES_32 = 32 * 1024 * 1024
NAME = st.text(alphabet='k"\\[,', max_size=5)
JSON = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a"\\,[{ü\n', max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAME, inner, max_size=4),
    max_leaves=40,
)


def starts(value: Any) -> int:
    """Commas and opening brackets outside strings."""
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(0, len(value) - 1) + sum(map(starts, inner))
    return 0


@given(JSON, st.integers(1, 30))
def test_values_are_counted_outside_strings_alone_however_the_text_is_sliced(value: Any, slice_bytes: int) -> None:
    text, count = json.dumps(value, ensure_ascii=False).encode(), starts(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_bounds, "_SLICE_BYTES", slice_bytes)
        assert not body_bounds._has_more_values(text, count)  # noqa: SLF001 - at its edge
        assert count == 0 or body_bounds._has_more_values(text, count - 1)  # noqa: SLF001 - the same


HEAVY = {
    "empty lists": b"[],",
    "nested lists": b"[[]],",
    "numbers": b"1,",
    "strings": b'"",',
    "names": b'"model",',
    "images": b'"input_image",',
    "marks": b'"data:;base64,",',
    "long words": b'"%b",' % (b"QUJD" * 150),
    "marks in one string": b";base64,",
    "text": b"hello, this is text. ",
    "emoji": "\U0001f600".encode(),
    "escapes": b"\\u00e9",
    "quotes": b'\\"',
    "half emoji": b"\\ud800",
}


@pytest.mark.parametrize("piece", HEAVY.values(), ids=HEAVY.keys())
def test_a_body_that_would_take_long_is_refused_before_it_is_parsed(piece: bytes) -> None:
    many = piece * (MEGABYTES_32 // len(piece))
    body = (
        b'{"model":"m","input":[%b]}' % many.rstrip(b",")
        if piece.endswith(b",") and piece[0] in b'"[1'
        else (b'{"model":"m","input":"%b"}' % many)
    )
    began = time.thread_time()
    with pytest.raises(GatewayError) as refused:
        read_request_body(body, RESPONSES.request)
    assert refused.value.code == "body_too_large"
    assert time.thread_time() - began < 1, "of seconds, a machine that is busy included"


def test_an_attachment_is_no_text() -> None:
    image = b"data:image/png;base64," + b"QUJD" * (20 * 1024 * 1024 // 4)
    body = b'{"model":"m","input":[{"type":"input_image","image_url":"%b"}]}' % image
    assert read_request_body(body, RESPONSES.request).model == "m"


def test_a_long_conversation_is_served() -> None:
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": 'a, b [c] {d} "e" ' * 20}]}
    body = json.dumps({"model": "m", "input": [message] * 15_000}).encode()
    assert len(body) > 6_000_000
    assert read_request_body(body, RESPONSES.request).model == "m"


def test_the_bounds_are_the_operators() -> None:
    text = b'{"a":[%b0]}' % (b"0," * 2000)
    check_bounds(text, BodyBounds(max_json_values=2002))
    for bounds in (BodyBounds(max_json_values=2001), BodyBounds(max_text_bytes=len(text) - 1)):
        with pytest.raises(GatewayError) as refused:
            check_bounds(text, bounds)
        assert refused.value.explain["limit"] in (2001, len(text) - 1)
