"""Money is whole nano-USD: what is parsed comes back, and what is rounded is rounded up, once."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.billing.money import MAX_NANO_USD, NANO, MoneyError, format_rate, format_usd, parse_usd, round_up_usd

amounts = st.integers(-MAX_NANO_USD, MAX_NANO_USD)


@given(amounts)
def test_an_amount_is_written_and_read_back(nano: int) -> None:
    assert parse_usd(format_usd(nano)) == nano


@given(amounts)
def test_an_amount_is_written_without_exponent_and_trailing_zeros(nano: int) -> None:
    text = format_usd(nano)
    assert Decimal(text) * NANO == nano
    assert set(text) <= set("-.0123456789")
    assert "." not in text or text[-1] not in ".0"


@pytest.mark.parametrize(("text", "nano"), [("1.25", 1_250_000_000), (" 0.000000001 ", 1), ("+7", 7 * NANO), ("-0", 0)])
def test_amounts_as_people_write_them(text: str, nano: int) -> None:
    assert parse_usd(text) == nano


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "1.",
        ".5",
        "1e3",
        "1,5",
        "$1",
        "NaN",
        "inf",
        "1_0",
        "٣",
        "0.0000000001",
        "9007199.254740992",
        "1" * 13,
        "--1",
    ],
)
def test_what_is_no_exact_amount_is_refused(text: str) -> None:
    with pytest.raises(MoneyError):
        parse_usd(text)


@given(st.decimals("0", "9000000", allow_nan=False, allow_infinity=False, places=15))
def test_an_upstreams_cost_is_rounded_up_by_less_than_a_nano(cost: Decimal) -> None:
    for text in (str(cost), f"{cost:e}"):
        assert 0 <= round_up_usd(text) - Fraction(cost) * NANO < 1


@pytest.mark.parametrize("text", ["", "x", "-0.1", "NaN", "Infinity", "1e999999999", "9007199.3"])
def test_an_upstreams_cost_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(MoneyError):
        round_up_usd(text)


@pytest.mark.parametrize(
    ("rate", "text"), [(Fraction(275, 2), "0.0000001375"), (Fraction(1e9), "1"), (Fraction(), "0")]
)
def test_a_rate_may_be_finer_than_a_nano_dollar(rate: Fraction, text: str) -> None:
    assert format_rate(rate) == text
