"""Times as the API writes them: whatever a store counts, a page of teams can be shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.protocol.timestamps import iso_time

LAST = "9999-12-31T23:59:59.000Z"


@given(st.integers(min_value=0, max_value=253_402_300_799_000))
def test_a_time_reads_back_as_it_was(ms: int) -> None:
    read = datetime.fromisoformat(iso_time(ms))
    assert (read - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) == ms


@given(st.integers(min_value=253_402_300_799_000))
@example(501_792_000_000_000)  # a bucket of a rate that was overdrawn by 10^15 tokens
def test_a_time_beyond_the_calendar_is_its_last(ms: int) -> None:
    assert iso_time(ms) == LAST
