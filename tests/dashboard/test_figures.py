"""Figures for people: amounts, bars, forecasts; pure."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.billing.money import MAX_NANO_USD, format_usd
from gateway.dashboard.charts import MAX_SERIES, table
from gateway.dashboard.forecast import DAY_MS, forecast
from gateway.dashboard.limit_bars import limit_bars
from gateway.dashboard.render import usd

NOW = 1_790_000_000_000


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "$0"),
        ("12.345678901", "$12.35"),
        ("1234567.5", "$1,234,567.50"),
        ("-3.5", "-$3.50"),
        ("0.5", "$0.5"),
        ("0.000123456", "$0.000123"),
        ("0.000000001", "$0.000000001"),
        ("-0.0199", "-$0.0199"),
    ],
)
def test_an_amount_is_shown_to_cents_or_three_digits(amount: str, shown: str) -> None:
    assert usd(amount) == shown


@given(st.integers(-MAX_NANO_USD, MAX_NANO_USD))
def test_a_shown_amount_is_within_half_a_percent(nano: int) -> None:
    exact = Decimal(format_usd(nano))
    shown = Decimal(usd(format_usd(nano)).replace("$", "").replace(",", ""))
    assert abs(shown - exact) <= abs(exact) * Decimal("0.005")


def test_a_week_of_even_spending_ends_when_the_balance_does() -> None:
    found = forecast(available=30, spent=70, from_ms=NOW - 7 * DAY_MS, created_ms=0, now_ms=NOW)
    assert (found.a_day, found.ends_ms) == (10, NOW + 3 * DAY_MS)


def test_what_expires_before_it_is_spent_at_this_rate_does_not_put_off_the_end() -> None:
    def days(available: int, *expiring: tuple[int, int]) -> float:
        lots = [(NOW + day * DAY_MS, amount) for day, amount in expiring]
        found = forecast(
            available=available, spent=70, from_ms=NOW - 7 * DAY_MS, created_ms=0, now_ms=NOW, expiring=lots
        )
        return (found.ends_ms - NOW) / DAY_MS

    assert days(100, (3, 100)) == 3
    assert days(100, (30, 100)) == 10
    assert days(150, (3, 50), (4, 50)) == 3 + 1 + 5
    assert days(100, (1, 20), (9, 80)) == 1 + 8


def test_a_team_of_yesterday_is_measured_from_its_creation_and_a_new_one_by_a_day() -> None:
    for age_ms, a_day in ((2 * DAY_MS, 35), (60_000, 70)):
        found = forecast(available=1, spent=70, from_ms=NOW - 7 * DAY_MS, created_ms=NOW - age_ms, now_ms=NOW)
        assert found.a_day == a_day


@given(st.integers(-(10**18), MAX_NANO_USD), st.integers(0, MAX_NANO_USD), st.integers(0, NOW), st.integers(0, NOW))
def test_an_end_is_never_past_and_comes_sooner_with_less(available: int, spent: int, since: int, created: int) -> None:
    def ends(balance: int) -> int:
        return forecast(available=balance, spent=spent, from_ms=since, created_ms=created, now_ms=NOW).ends_ms

    assert ends(available) == 0 or ends(available) >= NOW
    if ends(available):
        assert NOW <= ends(available // 2 if available > 0 else available) <= ends(available)


def test_bars_show_what_is_used_and_warn_before_the_end() -> None:
    shown = limit_bars(
        {
            "rpm": {"limit": 10, "remaining": 1, "resets_at": None},
            "budget_usd_day": {"limit_usd": "2", "used_usd": "2.5", "remaining_usd": "0", "resets_at": "x"},
            "budget_tokens_day": {"limit": 100, "used": 10, "remaining": 90, "resets_at": "x"},
            "concurrency": {"limit": 0, "remaining": 0, "resets_at": None},
            "max_output_tokens": {"limit": 5},
        }
    )
    assert [(bar.share, bar.state) for bar in shown] == [
        (0.9, "nearly"),
        (1.0, "full"),
        (0.1, "ok"),
        (1.0, "full"),
        (None, "ok"),
    ]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9), st.integers(0, 10**12)), max_size=40))
def test_a_chart_loses_nothing(rows: list[tuple[int, int, int]]) -> None:
    costs: dict[tuple[int, int], int] = {}
    for day, model, cost in rows:
        costs[day, model] = costs.get((day, model), 0) + cost
    usage = {
        "step": "day",
        "timezone": "UTC",
        "from": "2026-11-01T00:00:00.000Z",
        "to": "2026-11-08T00:00:00.000Z",
        "groups": [{"model": f"m{model}"} for model in sorted({model for _, model in costs})],
        "data": [
            {"start": f"2026-11-{day + 1:02}T00:00:00.000Z", "model": f"m{model}", "cost_usd": format_usd(cost)}
            for (day, model), cost in costs.items()
        ],
    }
    shown = table(usage, "cost_usd")
    assert len(shown.rows) == 7
    assert len(shown.columns) <= MAX_SERIES
    total = sum((cell for _, cells in shown.rows for cell in cells), Decimal())
    assert total == Decimal(format_usd(sum(costs.values())))
