"""What is noticed, and when the same threshold counts as another one: pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounts.entities import Balance, Key, Lot, Rule, Team, View
from gateway.notices.policy import Recipient
from gateway.notices.thresholds import DAY_MS, Reached, Subject, reached

NOW_MS = 1_800_000_000_000
USD = 10**9


def team(**changes: Any) -> Team:
    values: dict[str, Any] = {
        "id": "t1",
        "name": "search",
        "status": "active",
        "models": (),
        "operations": (),
        "limits": {},
        "expires_ms": 0,
        "created_ms": 1,
        "version": 1,
        "metered": True,
    }
    return Team(**{**values, **changes})


def key(**changes: Any) -> Key:
    values: dict[str, Any] = {
        "id": "k1",
        "name": "laptop",
        "status": "active",
        "models": (),
        "operations": (),
        "limits": {},
        "expires_ms": 0,
        "created_ms": 1,
        "version": 1,
        "team_id": "t1",
        "secrets": (),
        "cut_at_cap": False,
        "operator_values": {},
        "origins_known": True,
    }
    return Key(**{**values, **changes})


def counted(limit: int, used: int, ends_ms: int = NOW_MS + DAY_MS) -> dict[str, int]:
    """What a view has of one budget per day."""
    return {"budget_usd_day": limit, "used_day_usd": used, "day_ends_ms": ends_ms}


def view(*, balance: Balance | None = None, of_team: Any = None, of_key: Any = None) -> View:
    return View(NOW_MS, balance or Balance(0, 0, 0, 0), of_team or {}, of_key or {})


def told(**thresholds: Any) -> Recipient:
    return Recipient("ops", **thresholds)


def found(recipient: Recipient, subject: Subject) -> list[Reached]:
    return list(reached(recipient, subject))


@given(limit=st.integers(1, 10**15), used=st.integers(0, 10**16), percents=st.sets(st.integers(1, 100), max_size=5))
def test_the_highest_percentage_that_was_reached_is_noticed_and_no_other(
    limit: int, used: int, percents: set[int]
) -> None:
    wanted = sorted((one for one in percents if used * 100 >= limit * one), reverse=True)
    noticed = found(told(budget_percent=tuple(percents)), Subject(team(), view(of_team=counted(limit, used))))
    assert [one.data["threshold_percent"] for one in noticed] == wanted[:1]
    assert [len(one.marks) for one in noticed] == ([len(wanted)] if wanted else [])


def test_a_higher_percentage_passes_the_marks_of_the_lower_ones() -> None:
    recipient = told(budget_percent=(50, 80, 100))
    half, most, all_ = (
        found(recipient, Subject(team(), view(of_team=counted(100, used))))[0].marks for used in (55, 85, 100)
    )
    assert most[1:] == half
    assert all_[1:] == most


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((team(), counted(200, 120), "ops"), id="another limit"),
        pytest.param((team(), counted(100, 60, NOW_MS + 2 * DAY_MS), "ops"), id="another period"),
        pytest.param((team(id="t2"), counted(100, 60), "ops"), id="another team"),
        pytest.param((team(), counted(100, 60), "finance"), id="another recipient"),
    ],
)
def test_what_is_noticed_again(other: tuple[Team, dict[str, int], str]) -> None:
    subject, counters, name = other
    first = found(told(budget_percent=(50,)), Subject(team(), view(of_team=counted(100, 60))))
    again = found(Recipient(name, budget_percent=(50,)), Subject(subject, view(of_team=counters)))
    assert first[0].marks != again[0].marks


def test_what_is_used_later_in_a_period_has_the_mark_of_before() -> None:
    marks = {
        found(told(budget_percent=(50,)), Subject(team(), view(of_team=counted(100, used))))[0].marks
        for used in (50, 60, 99)
    }
    assert len(marks) == 1


def test_a_budget_of_the_last_days_is_noticed_once_in_each_span_of_that_length() -> None:
    def marks(now_ms: int) -> tuple[str, ...]:
        rule = Rule("budget_usd_7d", 100, 60, 40, now_ms + 7 * DAY_MS)
        seen = View(now_ms, Balance(0, 0, 0, 0), {}, {}, team_rules=(rule,))
        return found(told(budget_percent=(50,)), Subject(team(), seen))[0].marks

    begin_ms = NOW_MS - NOW_MS % (7 * DAY_MS)
    assert len({marks(begin_ms + day * DAY_MS) for day in range(7)}) == 1
    assert marks(begin_ms) != marks(begin_ms + 7 * DAY_MS)


def test_a_budget_that_refuses_requests_counts_as_used_up_where_it_is_nearly_so() -> None:
    recipient = told(budget_percent=(100,))
    for used, refused, wanted in ((95, True, 1), (95, False, 0), (60, True, 0), (100, False, 1)):
        names = frozenset({"budget_usd_day"} if refused else ())
        noticed = found(recipient, Subject(team(), view(of_team=counted(100, used)), refused=names))
        assert len(noticed) == wanted, (used, refused)
        assert all("Requests are refused" in one.text for one in noticed)


def test_credits_that_expire_soon_are_noticed_once_for_each_expiry_and_threshold() -> None:
    def at(*days: float, left: int = 2 * USD, metered: bool = True) -> list[Reached]:
        lots = tuple(Lot(NOW_MS + int(day * DAY_MS), left) for day in days)
        seen = view(balance=Balance(50 * USD, 40 * USD, 0, 10 * USD, lots))
        return found(told(days_left=(7, 1)), Subject(team(metered=metered), seen))

    assert at(7.01) == at(0.5, left=0) == at(0.5, metered=False) == []
    [week, day] = at(6.5), at(0.5)
    assert (
        week[0].text == f"Team search has 2 USD of credits that expire within 7 days, at {week[0].data['expires_at']}."
    )
    assert (week[0].data["threshold_days"], day[0].data["threshold_days"]) == (7, 1)
    assert (len(week[0].marks), len(day[0].marks)) == (1, 2)
    first, second = at(2, 3)
    assert first.marks != second.marks
    assert at(2, left=USD)[0].marks == first.marks, "what is left of them changes nothing"
    later = view(balance=Balance(50 * USD, 40 * USD, 0, 10 * USD, (Lot(NOW_MS + 2 * DAY_MS, USD),)))
    next_day = found(told(days_left=(7, 1)), Subject(team(), replace(later, now_ms=NOW_MS + DAY_MS)))[0]
    assert next_day.marks[1:] == first.marks
    assert next_day.text.startswith("Team search has 1 USD of credits that expire within 1 day, at")


def test_a_balance_counts_what_is_held_as_not_spent_and_is_noticed_again_after_a_grant() -> None:
    recipient = told(balance_below=(5 * USD, 20 * USD))

    def at(available: int, held: int, granted: int = 50) -> list[Reached]:
        balance = Balance(granted * USD, available * USD, held * USD, (granted - available - held) * USD)
        return found(recipient, Subject(team(), view(balance=balance)))

    assert at(1, 19) == []
    assert at(19, 0)[0].data["threshold_usd"] == "20"
    assert at(4, 0)[0].data["threshold_usd"] == "5"
    assert at(4, 0)[0].marks[1:] == at(19, 0)[0].marks
    assert at(19, 0)[0].marks != at(19, 0, granted=60)[0].marks
    unmetered = Subject(team(metered=False), view())
    assert found(recipient, unmetered) == []


@given(left_ms=st.integers(-(10**9), 30 * DAY_MS))
def test_days_left_are_counted_until_the_expiry_and_not_beyond(left_ms: int) -> None:
    recipient = told(days_left=(7, 1))
    wanted = 1 if 0 < left_ms <= DAY_MS else 7 if 0 < left_ms <= 7 * DAY_MS else None
    for subject, kind in (
        (Subject(team(expires_ms=NOW_MS + left_ms), view()), "team.expiring"),
        (Subject(team(), view(), key(expires_ms=NOW_MS + left_ms)), "key.expiring"),
    ):
        noticed = found(recipient, subject)
        assert [(one.kind, one.data["threshold_days"]) for one in noticed] == ([(kind, wanted)] if wanted else [])


def test_a_key_without_an_expiry_never_expires() -> None:
    assert found(told(days_left=(3650,)), Subject(team(), view(), key())) == []


def test_the_budgets_of_a_key_are_its_own() -> None:
    recipient = told(budget_percent=(50,))
    both = view(of_team=counted(100, 10), of_key={"budget_tokens_total": 10, "used_total_tokens": 9})
    [noticed] = found(recipient, Subject(team(), both, key()))
    assert noticed.text == "Key laptop of team search has used 90 % of budget_tokens_total: 9 of 10 tokens."


def test_a_name_of_several_lines_stays_in_one() -> None:
    [noticed] = found(told(days_left=(7,)), Subject(team(name="a\r\nBcc: b"), view(), key(expires_ms=NOW_MS + 5)))
    assert noticed.text.startswith("Key laptop of team a Bcc: b expires within 1 day, at ")
