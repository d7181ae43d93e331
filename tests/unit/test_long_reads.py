"""A long read of events is taken in slices: how much is in one is counted, and the time that it takes follows."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.protocol.sse_framing import LONG_READ_BYTES, slice_end, split_events

MAX_SLICE_BYTES = 16 * 1024
MAX_EVENTS = 3_000  # of three bytes each; of longer ones, fewer
EVENTS = (b":\n\n", b"data: {}\n\n", b"data: {}\r\n\r\n", b"data:\r\r", b"data: %b\n\n" % (b"x" * 300), b"x" * 20_000)


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(1, 6_000)), max_size=4))
@example([(EVENTS[0], 6_000), (EVENTS[5], 1), (EVENTS[0], 6_000)])
def test_slices_are_all_of_a_read_and_none_has_much_work(parts: list[tuple[bytes, int]]) -> None:
    read = b"".join(event * count for event, count in parts)[: 256 * 1024]
    slices, at = [], 0
    while at < len(read):
        end = slice_end(read, at)
        slices.append(read[at:end])
        at = end
    assert b"".join(slices) == read
    assert all(0 < len(one) <= MAX_SLICE_BYTES for one in slices)
    assert all(len(split_events(one)) <= MAX_EVENTS for one in slices)


def test_a_read_that_is_not_long_has_not_more_work() -> None:
    assert LONG_READ_BYTES / len(EVENTS[0]) <= MAX_EVENTS
