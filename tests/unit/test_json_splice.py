"""Members of a JSON object are changed, and every other byte stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.byte_search import PIECE_BYTES
from gateway.protocol.json_splice import members, replace

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(st.text(), json_values, max_size=5)
layouts = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n")])


@given(objects, objects, layouts, st.booleans())
def test_exactly_the_named_members_change(
    before: dict[str, Any], changes: dict[str, Any], layout: tuple[str, str], ascii_only: bool
) -> None:
    text = json.dumps(before, separators=layout, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    changed = replace(text, 0, {name: json.dumps(value).encode() for name, value in changes.items()})
    assert json.loads(changed) == {**before, **changes}
    if not changes:
        assert changed == text


@given(objects, layouts)
def test_every_member_is_found_where_its_value_stands(before: dict[str, Any], layout: tuple[str, str]) -> None:
    text = json.dumps(before, separators=layout).encode()
    found = {member.name: json.loads(text[member.start : member.end]) for member in members(text)}
    assert found == before


@given(objects, st.data(), layouts)
def test_members_that_go_leave_a_valid_object(
    before: dict[str, Any], data: st.DataObject, layout: tuple[str, str]
) -> None:
    gone = data.draw(st.sets(st.sampled_from(sorted(before)))) if before else set()
    text = json.dumps(before, separators=layout).encode()
    left = {name: value for name, value in before.items() if name not in gone}
    assert json.loads(replace(text, 0, dict.fromkeys(gone))) == left


def test_an_object_inside_an_object_is_changed_where_it_starts() -> None:
    text = b'{"a": {"id": 1, "x": [1, {"id": 2}]}, "id": 3}'
    start = next(member.start for member in members(text) if member.name == "a")
    assert replace(text, start, {"id": b"9", "new": b"true"}) == (
        b'{"a": {"id": 9, "x": [1, {"id": 2}],"new":true}, "id": 3}'
    )


LONG = 2 * PIECE_BYTES + 3


@pytest.mark.parametrize("text", ["x" * LONG, '\\"' * LONG, "y" + '"' * LONG, "[{" * LONG, '",' * LONG, "\n" * LONG])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_value_may_be_longer_than_one_search(text: str, shift: int) -> None:
    value = [{"t": "x" * shift + text}, [text, text], 1]
    for whole in ({"id": value, "last": text}, {"a": "", "id": value}):
        changed = replace(json.dumps(whole).encode(), 0, {"id": b"2", "new": b"3"})
        assert json.loads(changed) == {**whole, "id": 2, "new": 3}


@pytest.mark.parametrize(
    "text", [b'{"a":"' + b"x" * LONG, b'{"a":"' + b'\\"' * LONG, b'{"a":[' + b"1," * LONG, b'{"a":["' + b"]" * LONG]
)
def test_a_value_without_an_end_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError, match="without an end"):
        list(members(text))
