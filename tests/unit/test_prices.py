"""Prices: what a request may cost at most is never less than what it does cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.billing.prices import (
    Price,
    PriceTable,
    affordable_output_tokens,
    cost_of_usage_nano_usd,
    worst_case_nano_usd,
)
from gateway.protocol.usage import Usage
from gateway.routing.model_patterns import specificity

nano = st.integers(0, 10**11)
prices = st.builds(Price, nano, nano, nano)
tokens = st.integers(0, 2_000_000)


def usage(input_tokens: int, cached: int, output_tokens: int) -> Usage:
    return Usage(input_tokens, cached, output_tokens, 0, input_tokens + output_tokens, None)


@given(prices, tokens, tokens, tokens, tokens, tokens)
def test_the_worst_case_covers_every_usage_within_it(
    price: Price, most_input: int, most_output: int, input_tokens: int, cached: int, output_tokens: int
) -> None:
    within = usage(min(input_tokens, most_input), cached, min(output_tokens, most_output))
    assert cost_of_usage_nano_usd(price, within) <= worst_case_nano_usd(price, most_input, most_output)


@given(prices, tokens, st.integers(-(10**15), 10**15))
def test_what_is_affordable_is_affordable(price: Price, input_tokens: int, available: int) -> None:
    affordable = affordable_output_tokens(price, input_tokens, available)
    if affordable is None:
        assert worst_case_nano_usd(price, input_tokens, 10**9) <= available
    elif affordable:
        assert worst_case_nano_usd(price, input_tokens, affordable) <= available


@given(prices.filter(lambda price: price.output_nano_usd > 0), tokens, st.integers(0, 10**15))
def test_no_more_is_affordable(price: Price, input_tokens: int, available: int) -> None:
    """But for the one nano-USD by which the input's share alone is rounded up."""
    affordable = affordable_output_tokens(price, input_tokens, available)
    assert affordable is not None
    nano_a_token = -(-price.output_nano_usd // 1_000_000)
    more = affordable + 1 + -(-1_000_000 // price.output_nano_usd)
    assert worst_case_nano_usd(price, input_tokens, more) + nano_a_token > available


def test_cached_input_has_its_own_price_and_is_part_of_the_input() -> None:
    price = Price(1_000_000, 100_000, 10_000_000)
    assert cost_of_usage_nano_usd(price, usage(10, 4, 2)) == 26 + 1  # 6 + 0.4 + 20, rounded up
    assert cost_of_usage_nano_usd(price, usage(10, 99, 0)) == 1  # no more can be cached than there is


@pytest.mark.parametrize(
    ("model", "found"), [("a/b/c", 4), ("a/b/d", 3), ("a/x", 2), ("x", 1), ("a", 1), ("a/b", 2), ("a/b/c/d", 3)]
)
def test_the_most_specific_price_wins(model: str, found: int) -> None:
    table = PriceTable({"*": Price(1, 1, 1), "a/*": Price(2, 2, 2), "a/b/*": Price(3, 3, 3), "a/b/c": Price(4, 4, 4)})
    price = table.find(specificity(model))
    assert price is not None
    assert price.input_nano_usd == found


def test_an_unlisted_model_has_no_price() -> None:
    assert PriceTable({"a/*": Price(1, 1, 1)}).find(specificity("b")) is None
