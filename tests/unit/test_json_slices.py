"""JSON that is parsed in slices is what a parser makes of the whole, or it is refused like there."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.protocol.byte_search import joined
from gateway.protocol.json_slices import MAX_DEPTH, TooManyValues, parse_in_slices
from gateway.types import Body
from tests.support.effort import effort

TEXT = st.text(alphabet='ab"\\/\n\x07\u00e9\u20ac\U0001f600[]{},:', max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(TEXT, inner, max_size=8),
    max_leaves=60,
)
ROOT = st.lists(JSON, max_size=6) | st.dictionaries(TEXT, JSON, max_size=6)
SLICES = st.integers(16, 80)
EDITS = st.sampled_from([b"", b",", b'"', b"[", b"]", b"{", b"}", b":", b"\\", b"1", b" ", b"\xff", b"\x00", b"null"])


def parsed(text: Body, slice_bytes: int) -> Any:
    try:
        return parse_in_slices(text, orjson.loads, slice_bytes=slice_bytes).value
    except ValueError:
        return "refused"


def parsed_at_once(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return "refused"


def written(value: Any, draw: st.DataObject) -> bytes:
    indent, ascii_ = draw.draw(st.sampled_from([None, 1])), draw.draw(st.booleans())
    return json.dumps(value, ensure_ascii=ascii_, indent=indent).encode()


@settings(max_examples=effort(100))
@given(ROOT, SLICES, st.data())
def test_a_value_is_the_same_however_it_is_sliced(value: Any, slice_bytes: int, data: st.DataObject) -> None:
    text = written(value, data)
    assert parsed(text, slice_bytes) == parsed_at_once(text) == value
    assert parsed(bytearray(text), slice_bytes) == value


@settings(max_examples=effort(100))
@given(ROOT, SLICES, EDITS, st.data())
def test_what_is_no_json_is_refused_however_it_is_sliced(
    value: Any, slice_bytes: int, edit: bytes, data: st.DataObject
) -> None:
    text = written(value, data)
    start = data.draw(st.integers(0, len(text) - 1))
    text = text[:start] + edit + text[data.draw(st.integers(start, min(len(text), start + 3))) :]
    at_once = parsed_at_once(text)
    if isinstance(at_once, (list, dict, str)):
        assert parsed(text, slice_bytes) == at_once


@pytest.mark.parametrize(
    "text",
    [b"", b"1", b'"a"', b"[", b"{", b'["' + b"a" * 99, b'["' + b"a" * 40 + b"\\", b"[1],", b"[1]]", b"{}x", b'{"a"}'],
)
def test_what_is_no_array_or_object_is_refused(text: bytes) -> None:
    assert parsed(text, 16) == "refused"


def test_nesting_is_bounded() -> None:
    assert parsed(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, 16) != "refused"
    assert parsed(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), 16) == "refused"


def test_brackets_are_bounded() -> None:
    text = b"[" + b"[]," * 99 + b"[]]"
    assert len(parse_in_slices(text, orjson.loads, max_brackets=101, slice_bytes=32).value) == 100
    with pytest.raises(TooManyValues):
        parse_in_slices(text, orjson.loads, max_brackets=100, slice_bytes=32)


@given(st.lists(st.tuples(st.sampled_from(["model", "x", "mod\\u0065l", "input"]), JSON), max_size=8), SLICES)
@example([("x", "a" * 200), ("model", "b" * 200), ("model", [1, "c" * 200])], 16)
def test_the_places_of_wanted_members_are_told_each_time_that_they_occur(
    members: list[tuple[str, Any]], slice_bytes: int
) -> None:
    parts = [f'"{name}": {json.dumps(value)}' for name, value in members]
    text = f" {{ {', '.join(parts)} }} ".encode()
    places = parse_in_slices(text, orjson.loads, wanted=frozenset({"model"}), slice_bytes=slice_bytes).places
    told = [json.loads(text[start:end]) for start, end in places.pop("model", [])]
    assert told == [value for name, value in members if json.loads(f'"{name}"') == "model"]
    assert places == {}


def test_long_values_are_left_out_where_they_do_not_matter() -> None:
    value = {
        "data": [{"embedding": [0.5] * 5000, "index": number} for number in range(20)],
        "image": "A" * 500_000,
        "numbers": list(range(100_000)),
        "usage": {"prompt_tokens": 3},
    }
    sliced = parse_in_slices(json.dumps(value).encode(), orjson.loads, max_characters=100_000).value
    assert sliced["usage"] == value["usage"]
    assert sliced["image"] == "A" * 100_000
    assert [one["index"] for one in sliced["data"]] == list(range(20))
    assert len(orjson.dumps(sliced)) < 300_000


@given(st.lists(st.binary(max_size=9)))
def test_pieces_are_joined_as_they_are(pieces: list[bytes]) -> None:
    assert joined(pieces) == b"".join(pieces)
