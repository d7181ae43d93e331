"""Finds the rows of a price table of which one is the most expensive, whatever the request is. Pure.

A router's answer may come from any priced model, and the price of the most expensive one must be held. Not all rows
have to be compared: a row whose highest rates, over all of its tables, are at most the plain rates of another row never
costs more than that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from gateway.billing.hold import highest_rates
from gateway.billing.price_row import Price
from gateway.billing.price_table import PriceTable
from gateway.billing.rates import KINDS, InForce


def most_expensive_rows(table: PriceTable) -> tuple[tuple[str, Price], ...]:
    """Returns the rows that have to be compared, with the names of their models. Patterns are left out."""
    models = [(name, price) for name, price in table.prices.items() if not name.endswith("*")]
    models.sort(key=lambda one: one[1].plain.per_million("output"), reverse=True)
    kept: list[tuple[str, Price]] = []
    for name, price in models:
        if not any(_costs_at_least(other, price, table) for _, other in kept):
            kept.append((name, price))
    return tuple(kept)


def _costs_at_least(costly: Price, other: Price, table: PriceTable) -> bool:
    """Returns whether a row costs at least as much as another one for every request and every answer."""
    if costly.versions or not _has_highest_units(costly, table) or not _covers(costly, other):
        return False
    return not any(_has_more_than_rates(row) for row in (other, *_later(other))) and all(
        _is_at_most(highest_rates(row), costly.plain, table) for row in (other, *_later(other))
    )


def _has_highest_units(row: Price, table: PriceTable) -> bool:
    """Returns whether no other row charges more for a unit. A row that states none charges the highest price of all."""
    return all(rate >= table.units[unit] for unit, rate in row.per_unit.items())


def _has_more_than_rates(row: Price) -> bool:
    return bool(row.per_image or row.per_unit or row.minimum_seconds or row.tools)


def _later(price: Price) -> Iterator[Price]:
    return (row for _, row in price.versions)


def _covers(costly: Price, other: Price) -> bool:
    """Returns whether at least as much is held for one model as for another if a request states no bound."""
    for row in (other, *_later(other)):
        for bound, other_bound in (
            (costly.own_output_tokens, row.own_output_tokens),
            (costly.context_tokens, row.context_tokens),
        ):
            if bound != other_bound and (bound is None or other_bound is None or other_bound > bound):
                return False
    return True


def _is_at_most(rates: InForce, most: InForce, table: PriceTable) -> bool:
    if rates.per_request > most.per_request:
        return False
    if any(rates.per_call.get(tool, fee) > most.per_call.get(tool, fee) for tool, fee in table.fees.items()):
        return False
    return all(Fraction(rates.rates[kind], rates.divisor) <= Fraction(most.rates[kind], most.divisor) for kind in KINDS)
