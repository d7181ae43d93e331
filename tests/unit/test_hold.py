"""A hold covers whatever a provider reports within its own bounds, for any price row."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.billing.cost import cost_of_usage_nano_usd
from gateway.billing.hold import Work, affordable_output_tokens, worst_case
from gateway.billing.price_row import DAY_MS, Price
from gateway.billing.price_table import PriceTable
from gateway.billing.rates import KINDS, MILLION
from gateway.config.price_settings import PriceSettings
from gateway.protocol.quantities import Images, Quantities, Segment, Usage
from tests.support.effort import effort
from tests.support.price_rows import NOW, ROWS, ROWS_OF_ONE_VERSION, TIER_NAMES, TOOLS


@st.composite
def usages(draw: st.DrawFn, work: Work) -> Usage:
    def split(whole: int, kinds: tuple[str, ...]) -> dict[str, int]:
        parts, left = {}, draw(st.integers(0, whole))
        for kind in kinds:
            parts[kind] = draw(st.integers(0, left))
            left -= parts[kind]
        return parts

    output = ("output", "reasoning", "output_audio", "output_image", "output_video")
    tokens = split(work.input_tokens, tuple(kind for kind in KINDS if kind not in (*output, "citation")))
    tokens |= split(work.output_tokens, output)
    calls, left = {}, work.calls
    for tool in work.tools:
        calls[tool] = draw(st.integers(0, left))
        left -= calls[tool]
    made = [draw(st.integers(0, work.images))] if work.images else []
    facts = {
        name: value
        for name, value in (("speed", draw(st.sampled_from(["fast", "us", ""]))), ("inference_geo", "us"))
        if value
    }
    tier = draw(st.sampled_from(TIER_NAMES)) if not work.tier else draw(st.sampled_from([work.tier, ""]))
    if tier:
        facts["service_tier"] = tier
    quantities = Quantities(
        segments=(Segment({kind: number for kind, number in tokens.items() if number}),),
        calls=calls,
        units={unit: draw(st.sampled_from([Decimal(0), most / 2, most])) for unit, most in work.units.items()},
        images=tuple(Images(number, draw(st.sampled_from(["hd", "x"])), "1") for number in made),
        facts=facts,
    )
    return Usage(0, 0, 0, 0, 0, None, quantities)


WORKS = st.builds(
    Work,
    input_tokens=st.integers(0, 5000),
    output_tokens=st.integers(0, 5000),
    tier=st.sampled_from(["", "flex", "priority", "scale"]),
    tools=st.sampled_from([(), TOOLS]),
    calls=st.integers(0, 5),
    images=st.integers(0, 3),
    units=st.sampled_from([{}, {"second": Decimal("61.5")}, {"page": Decimal(3)}]),
)


@settings(max_examples=effort(100), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(ROWS, st.data())
def test_nothing_within_the_bounds_costs_more_than_the_hold(row: dict[str, Any], data: st.DataObject) -> None:
    price = PriceSettings.model_validate(row).price()
    table = PriceTable({"a": price})
    work = data.draw(WORKS)
    start = NOW + data.draw(st.integers(-DAY_MS, 5 * DAY_MS))
    until = start + data.draw(st.integers(0, 2 * DAY_MS))
    usage = data.draw(usages(work))
    ended = data.draw(st.integers(start, until))
    hold = worst_case(price, work, start, until, table).amount_nano_usd
    assert cost_of_usage_nano_usd(price, usage, ended, table) <= hold


def priced(**row: Any) -> Price:
    return PriceSettings.model_validate({"input": "1", "output": "10"} | row).price()


@pytest.mark.parametrize(
    ("row", "work", "expected"),
    [
        ({}, Work(1000, 100), 2_000_000),
        ({"cached_input": "0.1"}, Work(1000, 100), 2_000_000),
        ({"cache_write": "1.25"}, Work(1000, 100), 2_250_000),
        ({"cache_write": "1.25", "cache_write_1h": "2"}, Work(1000, 100), 3_000_000),
        ({"reasoning": "30"}, Work(1000, 100), 4_000_000),
        ({"input_audio": "9"}, Work(1000, 100), 10_000_000),
        ({"input_audio": "9"}, Work(1000, 100, media=False), 2_000_000),
        ({"above": {"999": {"factor": "2"}}}, Work(1000, 100), 4_000_000),
        ({"above": {"1000": {"factor": "2"}}}, Work(1000, 100), 2_000_000),
        ({"above": {"10": {"factor": "0.5"}}}, Work(1000, 100), 2_000_000),
        ({"tiers": {"priority": {"factor": "2"}}}, Work(1000, 100), 4_000_000),
        ({"tiers": {"priority": {"factor": "2"}}}, Work(1000, 100, tier="default"), 2_000_000),
        ({"tiers": {"priority": {"factor": "2"}, "flex": {"factor": "0.5"}}}, Work(1000, 100, tier="flex"), 2_000_000),
        ({"tiers": {"priority": {"factor": "2"}}}, Work(1000, 100, tier="unheard-of"), 4_000_000),
        ({"when": {"speed": {"fast": {"factor": "3"}}}}, Work(1000, 100), 6_000_000),
        ({"per_request": "0.001"}, Work(1000, 100), 3_000_000),
        ({"per_call": {"web_search": "0.01"}}, Work(1000, 100, tools=("web_search",), calls=3), 32_000_000),
        ({"per_call": {"web_search": "0.01"}}, Work(1000, 100, tools=(), calls=3), 2_000_000),
        ({"hours": [{"from": "13:00", "to": "14:00", "factor": "2"}]}, Work(1000, 100), 4_000_000),
        ({"hours": [{"from": "14:00", "to": "15:00", "factor": "2"}]}, Work(1000, 100), 2_000_000),
        ({"from": {"2026-11-30": {"input": "2", "output": "10"}}}, Work(1000, 100), 2_000_000),
    ],
)
def test_the_most_expensive_price_that_can_apply(row: dict[str, Any], work: Work, expected: int) -> None:
    noon = 1_795_953_600_000 // DAY_MS * DAY_MS + 12 * 3_600_000
    assert worst_case(priced(**row), work, noon, noon + 3_600_000).amount_nano_usd == expected


def test_units_are_held_in_place_of_tokens_where_only_another_row_states_their_price() -> None:
    table = PriceTable({"a": priced(input="0", output="0", per_unit={"second": "0.0001"}), "b": priced()})
    work = Work(input_tokens=100, output_tokens=0, units={"second": Decimal(60)})
    usage = Usage(0, 0, 0, 0, 0, None, Quantities((), units={"second": Decimal(60)}))
    hold = worst_case(table.prices["b"], work, NOW, NOW, table).amount_nano_usd
    assert cost_of_usage_nano_usd(table.prices["b"], usage, NOW, table) == hold == 6_000_000
    more = work._replace(input_tokens=10_000)
    assert worst_case(table.prices["b"], more, NOW, NOW, table).amount_nano_usd == 10_000_000, "not both of them"


def test_a_version_that_may_be_in_force_at_the_deadline_counts() -> None:
    midnight = (1_795_953_600_000 // DAY_MS + 1) * DAY_MS
    row = priced(**{"from": {"2026-11-30": {"input": "2", "output": "10"}}})
    assert row.versions[0][0] == midnight
    assert worst_case(row, Work(1000, 0), midnight - 1000, midnight - 1).amount_nano_usd == 1_000_000
    assert worst_case(row, Work(1000, 0), midnight - 1000, midnight).amount_nano_usd == 2_000_000


@settings(max_examples=effort(50))
@given(ROWS_OF_ONE_VERSION, WORKS, st.integers(0, 10**12))
def test_what_a_balance_buys_is_covered_by_it(row: dict[str, Any], work: Work, available: int) -> None:
    price = PriceSettings.model_validate(row).price()
    worst = worst_case(price, work._replace(output_tokens=0), NOW, NOW + 1000)
    tokens = affordable_output_tokens(worst, available)
    if tokens:
        bought = work._replace(output_tokens=min(tokens, 10**9))
        assert worst_case(price, bought, NOW, NOW + 1000).amount_nano_usd <= available
        one_more = work._replace(output_tokens=tokens + 2 + MILLION // max(1, worst.output_nano_usd))
        assert worst_case(price, one_more, NOW, NOW + 1000).amount_nano_usd > available
