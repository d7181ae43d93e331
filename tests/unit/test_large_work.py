"""What is long is read and written in short calls, and comes to the same."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.concurrency.off_loop import LONG_BYTES, OffLoop
from gateway.protocol.lenient_json import dumps, parse_json
from gateway.state.large_work import LargeWork, dump_whole, is_long, parse_object_whole, parse_whole

LONG = "x" * (LONG_BYTES + 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=30,
)


@given(JSON, JSON)
def test_a_long_value_is_written_as_a_short_one_is(one: Any, other: Any) -> None:
    for value in ([one, LONG, other], {"a": one, "long": [LONG], "b": {"c": other}}):
        assert is_long(value)
        assert dump_whole(value) == dumps(value)
        assert parse_whole(dumps(value)) == parse_json(dumps(value))


def test_what_one_parser_refuses_is_written_all_the_same() -> None:
    value = {"text": ["\ud800", 2**70, LONG]}
    assert parse_json(dump_whole(value)) == value


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"nothing", b'"' + LONG.encode() + b'"', b"[" + LONG.encode()])
def test_what_is_no_object_is_none(data: bytes) -> None:
    assert parse_object_whole(data) is None


@pytest.mark.parametrize(
    ("value", "long"),
    [
        ("", False),
        ([1] * 100, False),
        (LONG, True),
        ([[["a" * 1000] * 100]], True),
        ([0] * 100_000, True),
        ({str(at): 0 for at in range(100_000)}, True),
        ({"a": [{"b": LONG}]}, True),
    ],
)
def test_what_is_long_is_seen(value: Any, long: bool) -> None:
    assert is_long(value) is long


async def test_what_is_long_runs_in_a_thread_and_the_rest_at_once() -> None:
    off_loop = OffLoop(1)
    try:
        work = LargeWork(off_loop)
        here = threading.get_ident()
        assert await work.run(threading.get_ident, is_long=False) == here
        assert await work.run(threading.get_ident, is_long=True) != here
        assert await LargeWork().run(threading.get_ident, is_long=True) == here
    finally:
        off_loop.close()
