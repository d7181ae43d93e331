"""Where periods begin, for any time zone, anchor and moment, held to a search for where local dates change."""

from __future__ import annotations

import calendar
import itertools
import zoneinfo
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.accounts.limit_names import CALENDAR_PERIODS
from gateway.accounts.periods import NO_ANCHOR, Calendar, UnknownZone, begin_ms, edges, zone_of

DAY_MS: Final = 86_400_000
ZONES: Final = sorted(zoneinfo.available_timezones() - {"localtime", "Factory"})
zones = st.sampled_from(ZONES)
moments = st.integers(0, 4_000_000_000).map(lambda seconds: seconds * 1000)
anchors = st.dates(date(1970, 1, 1), date(2199, 12, 31))
KOLKATA: Final = ZoneInfo("Asia/Kolkata")


def local_date(at_ms: int, zone: ZoneInfo) -> date:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).astimezone(zone).date()


def first_moment(at_ms: int, zone: ZoneInfo) -> int:
    """The first moment of the local date of a moment, searched for: no zone has a day of over 50 hours."""
    day = local_date(at_ms, zone)
    outside, inside = at_ms - 50 * 3_600_000, at_ms
    assert local_date(outside, zone) < day
    while inside - outside > 1:
        middle = (inside + outside) // 2
        outside, inside = (outside, middle) if local_date(middle, zone) >= day else (middle, inside)
    return inside


def begins(day: date, anchor: date, period: str) -> bool:
    """Whether a date begins a period, told from the date alone."""
    if period == "day":
        return True
    if period == "week":
        return (day - anchor).days % 7 == 0
    last = calendar.monthrange(day.year, day.month)[1]
    months = (day.year - anchor.year) * 12 + day.month - anchor.month
    return day.day == min(anchor.day, last) and months % (3 if period == "quarter" else 1) == 0


def begin_before(at_ms: int, zone: ZoneInfo, anchor: date, period: str) -> int:
    """The beginning of the period around a moment, walking back day by day."""
    edge = first_moment(at_ms, zone)
    while True:
        day = local_date(edge, zone)
        if begins(day, anchor, period):
            return edge
        before = first_moment(edge - 1, zone)
        skipped = [day - timedelta(days=n) for n in range(1, (day - local_date(before, zone)).days)]
        if any(begins(one, anchor, period) for one in skipped):  # a date that the zone left out: it has no moment
            return edge
        edge = before


@given(zones, anchors | st.just(NO_ANCHOR), moments, st.sampled_from(CALENDAR_PERIODS))
@example("America/Sao_Paulo", NO_ANCHOR, 1_540_000_000_000, "day")  # midnight is skipped on 2018-11-04
@example("America/Havana", NO_ANCHOR, 1_541_300_000_000, "day")  # the hour behind midnight comes twice
@example("Pacific/Apia", NO_ANCHOR, 1_325_200_000_000, "day")  # there was no 2011-12-30
@example("Asia/Kolkata", date(2026, 11, 15), 1_796_000_000_000, "month")
@example("Europe/Berlin", date(2027, 1, 31), 1_803_000_000_000, "month")
def test_a_moment_lies_between_two_edges_that_begin_periods(zone: str, anchor: date, at_ms: int, period: str) -> None:
    place = ZoneInfo(zone)
    found = edges(period, place, anchor, at_ms, at_ms)
    assert len(found) == 2
    assert found[0] <= at_ms < found[1]
    if at_ms > 60 * DAY_MS:
        assert found[0] == begin_before(at_ms, place, anchor, period)
        assert found[0] == begin_before(found[1] - 1, place, anchor, period), "there is no edge in between"


@given(zones, anchors, moments, st.integers(0, 60), st.sampled_from(CALENDAR_PERIODS))
def test_edges_follow_one_another_without_a_gap(zone: str, anchor: date, at_ms: int, days: int, period: str) -> None:
    place, to_ms = ZoneInfo(zone), at_ms + days * DAY_MS
    found = edges(period, place, anchor, at_ms, to_ms)
    assert found == sorted(set(found))
    assert found[-2] <= to_ms < found[-1]
    for before, after in itertools.pairwise(found):
        assert edges(period, place, anchor, before, before) == [before, after]
        assert edges(period, place, anchor, after - 1, after - 1) == [before, after]


def test_a_day_has_as_many_hours_as_its_clocks_show() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    for day, hours in ((date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 11, 15), 24)):
        begin, end = (begin_ms(one, berlin) for one in (day, day + timedelta(days=1)))
        assert end - begin == hours * 3_600_000
    assert datetime.fromtimestamp(begin_ms(date(2026, 12, 1), KOLKATA) / 1000, UTC) == datetime(
        2026, 11, 30, 18, 30, tzinfo=UTC
    )


def test_an_anchor_at_the_end_of_a_month_comes_back_to_its_day() -> None:
    months = edges("month", UTC, date(2026, 1, 31), begin_ms(date(2026, 1, 31), UTC), begin_ms(date(2026, 4, 1), UTC))
    days = [datetime.fromtimestamp(edge / 1000, UTC).date().isoformat() for edge in months]
    assert days == ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"]


def test_without_an_anchor_periods_begin_as_calendars_do() -> None:
    at_ms = begin_ms(date(2026, 11, 25), UTC)
    first = {period: edges(period, UTC, NO_ANCHOR, at_ms, at_ms)[0] for period in CALENDAR_PERIODS}
    days = {period: datetime.fromtimestamp(edge / 1000, UTC).date().isoformat() for period, edge in first.items()}
    assert days == {"day": "2026-11-25", "week": "2026-11-23", "month": "2026-11-01", "quarter": "2026-10-01"}


@given(zones, moments)
def test_a_calendar_is_valid_as_long_as_it_has_edges(zone: str, at_ms: int) -> None:
    found = Calendar.around(at_ms, zone, "")
    for period in CALENDAR_PERIODS:
        assert found.edges[period][0] <= at_ms < found.edges[period][1]
        assert found.edges[period][-1] > found.until_ms
    assert date(1970, 1, 1) + timedelta(days=found.days_from) == local_date(found.edges["day"][0], ZoneInfo(zone))


@pytest.mark.parametrize("name", ["Mars/Olympus", "../../etc/passwd", "/etc/localtime", "x" * 65, "Asia", "a\0b"])
def test_a_zone_that_nobody_knows_is_refused(name: str) -> None:
    with pytest.raises(UnknownZone):
        zone_of(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Asia/Kolkatta", "Asia/Kolkata"),
        ("europe/berlin", "Europe/Berlin"),
        ("utc", "UTC"),
        ("New York", "America/New_York"),
        ("Kolkatta", "Asia/Kolkata"),
        ("GMT+2", None),  # Etc/GMT+2 is two hours behind
        ("CEST", None),
        ("Mars/Phobos", None),
    ],
)
def test_the_zone_that_was_meant_is_named(name: str, meant: str | None) -> None:
    with pytest.raises(UnknownZone) as refused:
        zone_of(name)
    assert str(refused.value).endswith(f"; is it {meant}?" if meant else "such as Asia/Kolkata, Europe/Berlin or UTC")
