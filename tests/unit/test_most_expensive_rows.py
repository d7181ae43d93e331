"""Which price rows matter where any of them may be charged."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.billing.hold import Work, highest_rates, worst_case
from gateway.billing.most_expensive_rows import most_expensive_rows
from gateway.billing.price_row import Conditions
from gateway.billing.price_table import PriceTable
from gateway.billing.rates import KINDS
from gateway.config.price_settings import PriceSettings
from tests.support.effort import effort
from tests.support.price_rows import NOW, ROWS, ROWS_OF_ONE_VERSION

CATALOGUE = {
    "a/small": {"input": "0.1", "output": "1"},
    "a/large": {"input": "5", "output": "50"},
    "b/huge": {"input": "20", "output": "100"},
    "*": {"input": "900", "output": "900"},
}
WORKS = st.builds(
    Work,
    input_tokens=st.integers(0, 5000),
    output_tokens=st.integers(0, 5000),
    tier=st.sampled_from(["", "flex", "priority", "scale"]),
    tools=st.sampled_from([(), ("web_search", "x_search")]),
    calls=st.integers(0, 3),
    images=st.integers(0, 2),
    units=st.sampled_from([{}, {"second": Decimal("61.5")}]),
)


@settings(max_examples=effort(60))
@given(st.lists(ROWS, min_size=2, max_size=4), WORKS)
def test_the_rows_that_are_left_out_are_never_the_most_expensive(found: list[dict[str, Any]], work: Work) -> None:
    table = PriceTable({f"a/{n}": PriceSettings.model_validate(row).price() for n, row in enumerate(found)})
    kept = [price for _, price in most_expensive_rows(table)]

    def most(price: Any) -> int:
        return worst_case(price, work, NOW, NOW + 1000, table).amount_nano_usd

    assert max(map(most, kept)) == max(map(most, table.prices.values()))


def test_a_cheap_row_is_left_out() -> None:
    prices = {name: PriceSettings.model_validate(row).price() for name, row in CATALOGUE.items()}
    assert [name for name, _ in most_expensive_rows(PriceTable(prices))] == ["b/huge"]


@settings(max_examples=effort(60))
@given(ROWS_OF_ONE_VERSION)
def test_the_highest_rates_bound_every_combination(row: dict[str, Any]) -> None:
    price = PriceSettings.model_validate(row).price()
    most = highest_rates(price)
    facts = [(name, value) for name, values in price.when.items() for value in values]
    whens: list[tuple[tuple[str, str], ...]] = [(), *((fact,) for fact in facts)]
    for tier in ("", *price.tiers):
        for step in range(-1, len(price.steps_of(tier))):
            for hours in range(-1, len(price.hours)):
                for when in whens:
                    rates = price.rates_for(Conditions(step, hours, when, tier))
                    for kind in KINDS:
                        assert rates.per_million(kind) <= most.per_million(kind)
                    assert rates.per_request <= most.per_request
