"""The text of a cost in the journal. All its lines can be read from it, and the sum can be computed again.

charge(price, usage, ...)   -> the amount that is charged, and its text
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
from gateway.billing.money import MAX_NANO_USD, format_rate, format_usd
from gateway.billing.price_row import Price
from gateway.billing.price_table import PriceTable
from gateway.billing.rates import MILLION
from gateway.protocol.quantities import EMPTY, Usage

_PLAIN_RATES: Final = 4
PLAIN_KINDS: Final = ("input", "cached_input", "output", "reasoning")


class Bill(NamedTuple):
    """The charge for one request. `charged_before_nano_usd` is the amount that had been charged for it before.

    `price` names the version of the price row: its fingerprint and, for a later version, the day it is in force from.
    """

    price: str
    lines: tuple[Line, ...]
    unpriced: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    charged_before_nano_usd: int = 0

    @property
    def nano_usd(self) -> int:
        """The exact sum of the lines, rounded up once, minus what had been charged before."""
        total = ceil(sum((line.amount_nano_usd for line in self.lines), Fraction(0)))
        return min(MAX_NANO_USD, total) - self.charged_before_nano_usd


class Charge(NamedTuple):
    """The charge for a usage, and its text for the journal."""

    nano_usd: int
    bill: str
    unpriced: tuple[str, ...] = ()


def charge(
    price: Price, usage: Usage, ended_ms: int, table: PriceTable, model: str, answered: str = "", unlisted: str = ""
) -> Charge:
    """Returns the charge for a usage by a price row. `ended_ms` is when its answer ended (milliseconds since 1970).

    `answered` is the model of the row, if another one was asked for. `unlisted` is one that answered without a row.
    """
    plain = None if answered or unlisted else plain_cost_nano_usd(price, usage)
    if plain is not None:
        return Charge(plain, price.plain_bill)
    cost = itemise(price, usage, ended_ms, table, answered or model)
    if unlisted:
        cost = cost._replace(unpriced=(*cost.unpriced, unlisted))
    return Charge(cost.nano_usd, write_bill(cost, usage, answered), cost.unpriced)


def write_bill(cost: Cost, usage: Usage, answered: str = "") -> str:
    """Returns the text of an itemised cost. `answered` is the model that answered in place of the requested one."""
    quantities = usage.quantities
    contradictions, facts = ((), EMPTY) if quantities is None else (quantities.contradictions, quantities.facts)
    said = {**facts, "model": answered} if answered else facts
    return _write(Bill(cost.version, cost.lines, cost.unpriced, contradictions, tuple(said.items())))


def with_charged_before(text: str, usage: Usage, cost_nano_usd: int, charged_before_nano_usd: int) -> str:
    """Returns the text of a bill of which a part had been charged before; "" where its sum is not what was charged."""
    bill = read_bill(text, usage)
    if bill is None or bill.nano_usd != cost_nano_usd:
        return ""
    return _write(bill._replace(charged_before_nano_usd=charged_before_nano_usd))


def bill_json(bill: Bill) -> dict[str, Any]:
    """Returns a bill as JSON: every line with its rate and its amount in USD."""
    return {
        "price": bill.price or None,
        "lines": [
            {
                "name": line.name,
                "quantity": format(line.quantity, "f"),
                "unit": line.unit,
                "rate_usd": format_rate(line.rate_nano_usd),
                "amount_usd": format_rate(line.amount_nano_usd),
            }
            for line in bill.lines
        ],
        "facts": dict(bill.facts),
        "unpriced": bill.unpriced,
        "contradictions": bill.contradictions,
        "less_usd": format_usd(bill.charged_before_nano_usd),
    }


def _write(bill: Bill) -> str:
    fields: dict[str, Any] = {"price": bill.price, "lines": [_write_line(line) for line in bill.lines]}
    more = {
        "unpriced": bill.unpriced,
        "contradictions": bill.contradictions,
        "facts": dict(bill.facts),
        "less": bill.charged_before_nano_usd,
    }
    return orjson.dumps(fields | {name: value for name, value in more.items() if value}).decode()


def read_bill(text: str, usage: Usage | None) -> Bill | None:
    """Parses a bill's text. Returns None if it is empty, or in a form that this version does not know."""
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
