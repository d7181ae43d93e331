"""Dates and times as people write them."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.protocol.moments import parse_moment

NOW = datetime(2026, 11, 30, 20, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-01", "2026-11-01T00:00:00+00:00"),
        ("2026-11-01T06:00", "2026-11-01T06:00:00+00:00"),
        ("2026-11-01T06:00:00Z", "2026-11-01T06:00:00+00:00"),
        ("2026-11-01T06:00:00+05:30", "2026-11-01T06:00:00+05:30"),
        (" Tomorrow ", "2026-12-01T00:00:00+00:00"),
        ("today", "2026-11-30T00:00:00+00:00"),
        ("now", NOW.isoformat()),
    ],
)
def test_a_moment_is_read(text: str, expected: str) -> None:
    assert parse_moment(text, NOW).isoformat() == expected


def test_a_day_begins_where_its_zone_says() -> None:
    kolkata = ZoneInfo("Asia/Kolkata")
    assert parse_moment("today", NOW, kolkata).isoformat() == "2026-12-01T00:00:00+05:30"
    assert parse_moment("2026-11-01", NOW, kolkata).isoformat() == "2026-11-01T00:00:00+05:30"


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "01.11.2026"])
def test_anything_else_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match="such as 2026-11-01, 2026-11-01T06:00:00Z, yesterday, today or tomorrow"):
        parse_moment(text, NOW)
