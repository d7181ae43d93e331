"""Money is an integer number of nano-USD (1 USD = 1_000_000_000).

This module is the only place where amounts are rounded.

    parse_usd("1.25")   -> 1_250_000_000     exact, or MoneyError
    format_usd(1250000) -> "0.00125"         exact, no exponent

Amounts are bounded by `MAX_NANO_USD`, because the store's scripts count in doubles, which are exact up to 2**53.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

NANO: Final = 1_000_000_000
MAX_NANO_USD: Final = 2**53 - 1  # about 9 million USD
_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,12}(\.[0-9]{1,18})?")


class MoneyError(ValueError):
    """The text is not an amount in USD that the ledger can represent exactly."""


def parse_usd(text: str) -> int:
    """Parses a decimal string in USD. Raises MoneyError for anything inexact, malformed or out of bounds."""
    if not _DECIMAL.fullmatch(text.strip()):
        raise MoneyError(f"{text!r} is not a decimal amount of USD, such as 1.25")
    nano = Decimal(text.strip()) * NANO
    if nano != nano.to_integral_value():
        raise MoneyError(f"{text!r} is finer than a nano-USD (9 decimals)")
    if abs(nano) > MAX_NANO_USD:
        raise MoneyError(f"{text!r} exceeds the largest amount, {format_usd(MAX_NANO_USD)} USD")
    return int(nano)


def round_up_usd(text: str) -> int:
    """Parses a decimal string in USD that an upstream reports as its cost. A fraction of a nano-USD is rounded up.

    Unlike `parse_usd` it accepts exponents, which JSON numbers may have. Raises MoneyError unless it is a finite amount
    >= 0.
    """
    nano = round_up_signed_usd(text)
    if nano < 0 or (nano == 0 and Decimal(text) < 0):
        raise MoneyError(f"{text!r} is not an amount that the ledger can hold")
    return nano


def round_up_signed_usd(text: str) -> int:
    """Parses a decimal string in USD that may be negative, as a provider's credit is. Rounded as by `round_up_usd`.

    Raises MoneyError for what is no finite amount within the bounds of the ledger.
    """
    try:
        nano = Decimal(text) * NANO
    except ArithmeticError:
        raise MoneyError(f"{text!r} is not an amount") from None
    if not nano.is_finite() or abs(nano) > MAX_NANO_USD:
        raise MoneyError(f"{text!r} is not an amount that the ledger can hold")
    return int(nano.to_integral_value(rounding="ROUND_CEILING"))


def format_usd(nano_usd: int) -> str:
    """Formats an amount exactly as a decimal string in USD without trailing zeros: -1_500_000_000 -> "-1.5"."""
    whole, fraction = divmod(abs(nano_usd), NANO)
    text = f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")
    return f"-{text}" if nano_usd < 0 else text


def format_rate(nano_usd: Fraction) -> str:
    """Formats a rate in nano-USD as a decimal string in USD without trailing zeros, exact up to 18 decimals."""
    digits = round(nano_usd * NANO)
    whole, fraction = divmod(digits, NANO * NANO)
    return f"{whole}.{fraction:018d}".rstrip("0").rstrip(".")
