"""Usage of many teams in bounded memory: listed groups and others always add up to the total."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.admin import usage_totals
from gateway.api.admin.usage_totals import By, UsageTotals
from gateway.errors import GatewayError
from gateway.reporting.outcome_rollups import OutcomeCounts
from gateway.reporting.usage_rollups import UsageRow

ROWS = st.lists(
    st.builds(
        UsageRow,
        team_id=st.sampled_from(["t1", "t2", "t3", "t4"]),
        key_id=st.sampled_from(["k1", "k2"]),
        model=st.sampled_from(["a", "b", "c"]),
        start_ms=st.sampled_from([0, 1, 2]),
        requests=st.integers(0, 5),
        input_tokens=st.just(1),
        cached_input_tokens=st.just(0),
        output_tokens=st.just(2),
        cost=st.integers(-5, 100),
    )
)


def totals(rows: list[Any], by: By | None, most: int) -> UsageTotals:
    made = UsageTotals(by, most)
    for row in sorted(rows, key=lambda row: str(row.team_id)):
        made.add(row)
    made.end()
    return made


@given(ROWS, st.sampled_from(["team", "key", "model", None]), st.integers(1, 5))
def test_groups_and_others_are_the_total(rows: list[UsageRow], by: By | None, most: int) -> None:
    made = totals(rows, by, most)
    cost = sum(row.cost for row in rows)
    parts = [made.groups[group].total for group in made.order()] + [made.others.total]
    steps = [found for _, _, found in made.rows()] + list(made.others.steps.values())
    assert made.total.cost == cost == sum(part.cost for part in parts) == sum(step.cost for step in steps)
    assert made.total.requests == sum(part.requests for part in parts)
    assert len(made.groups) <= most or by is None


@given(ROWS, st.sampled_from(["team", "key", "model"]), st.integers(1, 5))
def test_the_rows_that_stay_apart_are_those_that_cost_most(rows: list[UsageRow], by: By, most: int) -> None:
    whole, cut = totals(rows, by, 1000), totals(rows, by, most)
    costs = sorted((tally.total.cost for tally in whole.groups.values()), reverse=True)
    assert [cut.groups[group].total.cost for group in cut.order()] == costs[:most]


def test_however_many_teams_there_are_no_more_than_the_most_rows_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_totals, "MAX_ROWS", 100)
    made = UsageTotals("key", 1000)
    most = 0
    for number in range(2_000):
        for start in range(3):
            made.add(UsageRow(f"t{number}", "k", "m", start, 1, 1, 0, 1, number))
        most = max(most, sum(len(tally.steps) for tally in made.groups.values()))
    made.end()
    assert most <= 100 + 3
    assert made.total.requests == 6_000
    assert made.order()[0] == ("t1999", "k"), "the one that costs most is there"


def test_one_question_that_cannot_be_cut_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_totals, "MAX_ROWS", 10)
    with pytest.raises(GatewayError, match="shorter time"):
        totals([UsageRow("t", "k", f"m{number}", 0, 1, 1, 0, 1, 1) for number in range(11)], "model", 10)


def test_what_was_seen_adds_up_beside_what_was_used() -> None:
    rows: list[Any] = [
        UsageRow("t1", "k", "a", 0, 2, 10, 0, 20, 5_000_000_000),
        OutcomeCounts(
            "t1", "a", 0, {"end,completed": 2, "total,400": 2, "first,100": 1, "no,rate_limit_exceeded,rpm,key": 3}
        ),
        OutcomeCounts("t2", "a", 0, {"end,client_left": 1, "total,1000": 1, "no,rate_limit_exceeded,rpm,key": 1}),
    ]
    shape = totals(rows, "model", 10).groups["", "a"].total.to_json(with_outcomes=True)
    assert Decimal(shape["cost_usd"]) == 5
    assert shape["outcomes"] == {"completed": 2, "client_left": 1}
    assert shape["refused"] == 4
    assert shape["refusals"] == [{"code": "rate_limit_exceeded", "limit": "rpm", "scope": "key", "requests": 4}]
    assert shape["total_ms"] == {"requests": 3, "median": 362.5, "p95": 940.0}
    assert shape["first_byte_ms"] == {"requests": 1, "median": 80.0, "p95": 98.0}
