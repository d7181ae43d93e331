"""Long bytes are searched and decoded piece by piece, with the same result as at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.byte_search import PIECE_BYTES, as_utf8, is_utf8

TEXTS = st.lists(st.text().map(str.encode) | st.binary(max_size=4)).map(b"".join)


@given(TEXTS, st.sampled_from([0, PIECE_BYTES - 2, PIECE_BYTES - 1]))
def test_what_is_not_utf8_is_replaced_as_in_one_call(text: bytes, before: int) -> None:
    text = b"a" * before + text
    assert as_utf8(text) == text.decode("utf-8", "replace").encode()


@given(TEXTS, st.sampled_from([0, PIECE_BYTES - 2, PIECE_BYTES - 1]))
def test_text_is_valid_exactly_if_one_call_decodes_it(text: bytes, before: int) -> None:
    text = b"a" * before + text
    try:
        text.decode()
    except UnicodeDecodeError:
        assert not is_utf8(text)
    else:
        assert is_utf8(text)


@pytest.mark.parametrize("end", [b"\xf0\x9f\x98", b"\xff", b"\xed\xa0\x80"])
def test_a_long_text_with_an_invalid_end_is_not_valid(end: bytes) -> None:
    assert not is_utf8("\N{GRINNING FACE}".encode() * PIECE_BYTES + end)
