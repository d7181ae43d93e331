"""Finds the rows of a price table among which the dearest one is, for any request. Pure.

A router's answer may come from any priced model, and the dearest one must be held. Not all rows have to be compared: a
row whose highest rates, over all of its tables, are at most the plain rates of another row is never dearer than that.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from gateway.billing.hold import highest_rates
from gateway.billing.price_row import Price
from gateway.billing.price_table import PriceTable
from gateway.billing.rates import KINDS, InForce


def dearest_rows(table: PriceTable) -> tuple[tuple[str, Price], ...]:
    """Returns the rows, with the names of their models, that no other row outdoes. Patterns are left out."""
    models = [(name, price) for name, price in table.prices.items() if not name.endswith("*")]
    models.sort(key=lambda one: one[1].plain.per_million("output"), reverse=True)
    kept: list[tuple[str, Price]] = []
    for name, price in models:
        if not any(_outdoes(other, price, table) for _, other in kept):
            kept.append((name, price))
    return tuple(kept)


def _outdoes(dear: Price, other: Price, table: PriceTable) -> bool:
    """Returns whether a row costs at least as much as another one for every request and every answer."""
    if dear.versions or other.per_image or other.per_unit or other.tools or not _covers(dear, other):
        return False
    return all(_is_at_most(highest_rates(row), dear.plain, table) for row in (other, *_later(other)))


def _later(price: Price) -> Iterator[Price]:
    return (row for _, row in price.versions)


def _covers(dear: Price, other: Price) -> bool:
    """Returns whether at least as much is held for one model as for another if a request states no bound."""
    for row in (other, *_later(other)):
        for most, less in (
            (dear.own_output_tokens, row.own_output_tokens),
            (dear.context_tokens, row.context_tokens),
        ):
            if most != less and (most is None or less is None or less > most):
                return False
    return True


def _is_at_most(rates: InForce, most: InForce, table: PriceTable) -> bool:
    if rates.per_request > most.per_request:
        return False
    if any(rates.per_call.get(tool, fee) > most.per_call.get(tool, fee) for tool, fee in table.fees.items()):
        return False
    return all(Fraction(rates.rates[kind], rates.divisor) <= Fraction(most.rates[kind], most.divisor) for kind in KINDS)
