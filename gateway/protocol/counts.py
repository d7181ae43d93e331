"""Numbers in JSON from outside: counts and amounts of time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

MAX_COUNT: Final = 2**53  # the largest range in which every JSON implementation counts exactly (RFC 8259, section 6)
_MAX_AMOUNT: Final = Decimal(10) ** 12
# Decimal() would also accept "NaN", "1_0", and exponents that make a number with a million digits.
_AMOUNT: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,2})?")


def count(value: object) -> int | None:
    """Returns a whole number from 0 to 2**53, or None. "12.0" is accepted, because some JSON writers make it of 12."""
    if type(value) is int:  # not a bool
        return value if 0 <= value <= MAX_COUNT else None
    if isinstance(value, float) and value.is_integer() and 0 <= value <= MAX_COUNT:
        return int(value)
    return None


def amount(value: object) -> Decimal | None:
    """Returns a number >= 0 and below 10**12 from a JSON number or a string of one, or None.

    The repr of a float is the shortest text with its value: the digits that the sender wrote, up to 17 of them.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, int) and not 0 <= value < _MAX_AMOUNT:
        return None  # before repr, because Python refuses to format very long integers
    text = value if isinstance(value, str) else repr(value)
    if _AMOUNT.fullmatch(text) is None:
        return None
    number = Decimal(text)
    return number if number < _MAX_AMOUNT else None


def find(tree: Mapping[str, Any], path: tuple[str, ...]) -> object:
    """Returns the value at a path of names, or None."""
    found: object = tree
    for name in path:
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found


def counted(tree: Mapping[str, Any], paths: tuple[tuple[str, ...], ...]) -> int | None:
    """Returns the first count above zero at one of the paths, 0 if there are only zeros, or None."""
    zero: int | None = None
    for path in paths:
        number = count(find(tree, path))
        if number:
            return number
        if number == 0:
            zero = 0
    return zero


def any_counts(tree: Mapping[str, Any], paths: tuple[tuple[str, ...], ...]) -> set[int]:
    """Returns every different count above zero at one of the paths."""
    return {number for path in paths if (number := count(find(tree, path)))}
