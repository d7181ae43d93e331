"""How messages count: "1 request", "2 requests". Pure."""

from __future__ import annotations


def counted(number: int, noun: str, nouns: str = "") -> str:
    """Returns a number with its noun. `nouns`: the plural, where it is not the noun and an "s"."""
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"
