"""A cost as it is kept: text in the journal, from which every line can be read and the sum computed again.

charge(price, usage, ...)   -> what is charged, and the text of it
read_bill(text, usage)      -> Bill, or None where nothing was kept (older entries, the upstream's own cost)

"3f9a01c2 1000000000 100000000 10000000000 10000000000"    version, nano-USD per million of input, cached input,
                                                           output, reasoning
{"price": "3f9a01c2", "lines": [...], ...}                 a line: name, quantity, unit, nano-USD for one unit
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any, Final, NamedTuple

import orjson

from gateway.billing.cost import TOKENS_UNIT, Cost, Line, itemise, plain_cost_nano_usd
from gateway.billing.price_row import Price
from gateway.billing.price_table import PriceTable
from gateway.billing.rates import MILLION
from gateway.protocol.quantities import Usage

_PLAIN_RATES: Final = 4
PLAIN_KINDS: Final = ("input", "cached_input", "output", "reasoning")


class Bill(NamedTuple):
    """What was charged for one request. `less_nano_usd`: what had been charged for it before.

    `price`: the version of the price row, its fingerprint and, where it is one, the day from which it is in force.
    """

    price: str
    lines: tuple[Line, ...]
    unpriced: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    less_nano_usd: int = 0

    @property
    def nano_usd(self) -> int:
        """The exact sum of the lines, rounded up once."""
        return ceil(sum((line.amount_nano_usd for line in self.lines), Fraction(0)))


class Charge(NamedTuple):
    """What a usage is charged, and what the books keep of how that came about."""

    nano_usd: int
    bill: str
    unpriced: tuple[str, ...] = ()


def charge(price: Price, usage: Usage, ended_ms: int, table: PriceTable, model: str) -> Charge:
    """What a usage is charged by a row, if its answer ended at a time (milliseconds since 1970)."""
    plain = plain_cost_nano_usd(price, usage)
    if plain is not None:
        return Charge(plain, price.plain_bill)
    cost = itemise(price, usage, ended_ms, table, model)
    return Charge(cost.nano_usd, write_bill(cost, usage), cost.unpriced)


def write_bill(cost: Cost, usage: Usage, *, less_nano_usd: int = 0) -> str:
    """The text of an itemised cost. `less_nano_usd`: what had been charged for the same answer before."""
    quantities = usage.quantities
    fields: dict[str, Any] = {"price": cost.version, "lines": [_write_line(line) for line in cost.lines]}
    if cost.unpriced:
        fields["unpriced"] = cost.unpriced
    if quantities is not None and quantities.contradictions:
        fields["contradictions"] = quantities.contradictions
    if quantities is not None and quantities.facts:
        fields["facts"] = dict(quantities.facts)
    if less_nano_usd:
        fields["less"] = less_nano_usd
    return orjson.dumps(fields).decode()


def read_bill(text: str, usage: Usage | None) -> Bill | None:
    """What a text says; None where it says nothing, or nothing that this version reads."""
    try:
        return _read_json(text) if text.startswith("{") else _read_plain(text, usage)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _read_plain(text: str, usage: Usage | None) -> Bill | None:
    price, *rates = text.split(" ")
    if len(rates) != _PLAIN_RATES or usage is None:
        return None
    cached, reasoning = usage.cached_input_tokens, usage.reasoning_tokens
    counts = (usage.input_tokens - cached, cached, usage.output_tokens - reasoning, reasoning)
    lines = (
        _line(name, Decimal(count), TOKENS_UNIT, Fraction(rate))
        for name, count, rate in zip(PLAIN_KINDS, counts, rates, strict=True)
        if count
    )
    return Bill(price, tuple(lines))


def _read_json(text: str) -> Bill:
    fields: dict[str, Any] = orjson.loads(text)
    return Bill(
        str(fields["price"]),
        tuple(_read_lines(fields["lines"])),
        tuple(map(str, fields.get("unpriced", ()))),
        tuple(map(str, fields.get("contradictions", ()))),
        tuple((str(name), str(value)) for name, value in fields.get("facts", {}).items()),
        int(fields.get("less", 0)),
    )


def _read_lines(lines: list[list[str]]) -> Iterator[Line]:
    for name, quantity, unit, rate in lines:
        yield _line(str(name), Decimal(quantity), str(unit), Fraction(rate))


def _line(name: str, quantity: Decimal, unit: str, rate: Fraction) -> Line:
    return Line(name, quantity, unit, rate, Fraction(quantity) * rate / (MILLION if unit == TOKENS_UNIT else 1))


def _write_line(line: Line) -> tuple[str, str, str, str]:
    return line.name, str(line.quantity), line.unit, str(line.rate_nano_usd)
