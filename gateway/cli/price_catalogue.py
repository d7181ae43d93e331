"""The prices in the package `genai-prices`, as rows of the configuration. Nothing is downloaded.

    load(day)        -> Catalogue: the prices in force on a day, and later ones
    Entry            one model: its row of the configuration, and remarks about prices that a row cannot express

A row charges what the package computes for a usage of the same model, tier and time. Rates finer than 1e-9 USD per
million tokens are rounded up. The package is optional, and so it is imported only here, by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import ROUND_CEILING, Decimal
from importlib import import_module
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.billing.rates import KINDS
from gateway.cli.errors import CliError
from gateway.protocol.model_spelling import folded
from gateway.routing.model_patterns import is_pattern

PACKAGE: Final = "genai-prices"
_MISSING: Final = f'the package {PACKAGE} is missing: pip install "openresponses-gateway[prices]"'

RATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "input_mtok": "input",
        "cache_read_mtok": "cached_input",
        "cache_write_mtok": "cache_write",
        "cache_write_5m_mtok": "cache_write",
        "cache_write_1h_mtok": "cache_write_1h",
        "output_mtok": "output",
        "output_reasoning_mtok": "reasoning",
        "output_citation_mtok": "citation",
        "input_audio_mtok": "input_audio",
        "cache_audio_read_mtok": "cached_audio",
        "output_audio_mtok": "output_audio",
        "input_image_mtok": "input_image",
        "cache_image_read_mtok": "cached_image",
        "output_image_mtok": "output_image",
        "input_video_mtok": "input_video",
        "output_video_mtok": "output_video",
    }
)
"""Prices of a million tokens, and the rates that they are here."""
FEES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "web_searches_kcount": "web_search",
        "storage_searches_kcount": "file_search",
        "social_searches_kcount": "x_search",
        "code_executions_kcount": "code_interpreter",
    }
)
"""Prices of a thousand calls, and the tools that are called."""
UNITS: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        "audio_hours": ("hour", 1),
        "input_audio_hours": ("hour", 1),
        "input_mchars": ("million_characters", 1),
        "input_document_kpages": ("page", 1000),
        "rerank_searches_kcount": ("search_unit", 1000),
    }
)
"""Prices of other quantities: their unit here, and how many of it the price is for."""
_PER_REQUEST: Final = "requests_kcount"
_THOUSAND: Final = 1000
_FINEST: Final = Decimal("1e-9")
_MINIMUM_SECONDS: Final = MappingProxyType({"groq/whisper-large-v3": 10, "groq/whisper-large-v3-turbo": 10})
"""A minimum that is in the package's code, not in its data: https://console.groq.com/docs/speech-to-text"""
_TABLES: Final[Mapping[str, str]] = MappingProxyType({"service_tier": "tiers", "processing": "tiers", "speed": "when"})
"""The contexts of price variants that have a table here."""

Row = dict[str, Any]
_Prices = dict[str, Any]


class Entry(NamedTuple):
    """One model. `row`: None where the data has no price. `remarks`: what the row does not say, for a comment.

    `lost`: those of the remarks for which the form of a row has no counterpart.
    """

    model: str
    row: Row | None
    remarks: tuple[str, ...]
    lost: tuple[str, ...]


class Catalogue(NamedTuple):
    """All models of the data, in its order, by provider and name: "openai/gpt-5.2". `version`: the package's."""

    version: str
    entries: tuple[Entry, ...]

    def chosen(self, names: Sequence[str]) -> tuple[Entry, ...]:
        """Returns the entries of providers and models ("openai", "openai/gpt-5.2", "gpt-5.2"); all without names.

        Raises CliError with the names that are in the data nowhere.
        """
        wanted = {folded(name): name for name in names}
        whole = {folded(entry.model) for entry in self.entries}
        found: list[Entry] = []
        met: set[str] = set()
        for entry in self.entries:
            name = folded(entry.model)
            provider, _, model = name.partition("/")
            # "openai/gpt-5.2" is OpenAI's model, though a router's list has a model of that name, too
            fits = wanted.keys() & {name, provider, *({model} - whole)}
            met |= fits
            if fits or not wanted:
                found.append(entry)
        if unknown := [name for key, name in wanted.items() if key not in met]:
            raise CliError(*(f"{name}: {PACKAGE} {self.version} has no such provider or model" for name in unknown))
        return tuple(found)


def load(day: date) -> Catalogue:
    """Returns the data as rows: the version in force on a day (UTC), with later ones below `from`.

    Raises CliError where the package is missing.
    """
    try:
        snapshot = import_module("genai_prices.data_snapshot").get_snapshot()
    except ImportError:
        raise CliError(_MISSING) from None
    entries = [_entry(provider.id, model, day) for provider in snapshot.providers for model in provider.models]
    return Catalogue(version(PACKAGE), tuple(_unequal(entries)))


def _unequal(entries: Sequence[Entry]) -> Iterator[Entry]:
    """Yields the entries. Of names that are one to the gateway the first has the row."""
    seen: dict[str, str] = {}
    for entry in entries:
        first = seen.setdefault(folded(entry.model), entry.model)
        if first is entry.model:
            yield entry
        else:
            yield Entry(entry.model, None, *2 * ((f"is the same name as {first}",),))


def _entry(provider: str, model: Any, day: date) -> Entry:
    name = f"{provider}/{model.id}"
    if not is_pattern(name) or "*" in name:
        return Entry(name, None, *2 * (("cannot be the name of a row",),))
    days = sorted({day, *(start for start in _starts(model) if start > day)})
    versions = [(start, _Version(name, model, start)) for start in days]
    now = versions[0][1]
    lost = list(now.lost)
    if now.row is None:
        return Entry(name, None, *2 * (("the data has no price",),))
    row, last = dict(now.row), now.row
    for start, later in versions[1:]:
        lost += [f'from."{start}": {loss}' for loss in later.lost if loss not in now.lost]
        if later.row is None:
            lost.append(f'from."{start}": the data has no price')
        elif later.row != last:
            row.setdefault("from", {})[start.isoformat()] = last = later.row
    note = (model.price_comments,) if model.price_comments else ()
    return Entry(name, row, (*now.remarks, *lost, *note), tuple(lost))


def _starts(model: Any) -> Iterator[date]:
    conditional = model.prices if isinstance(model.prices, list) else []
    for one in (*conditional, *(model.price_variants or ())):
        if (start := getattr(one.constraint, "start_date", None)) is not None:
            yield start


@dataclass
class _Version:
    """A model's row as it is on one day. Mutable while it is made: `row`, `remarks`, `lost`."""

    name: str
    model: Any
    day: date
    row: Row | None = None
    remarks: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        base, hours = self._in_force()
        if not base:
            return
        row = self._table(base, "")
        if self.model.context_window:
            row["context_tokens"] = self.model.context_window
        if self.name in _MINIMUM_SECONDS:
            row["minimum_seconds"] = _MINIMUM_SECONDS[self.name]
        if units := self._units(base):
            row["per_unit"] = units
        if not row.keys() - {"context_tokens", "minimum_seconds"}:
            return
        self._complete(row)
        row |= self._above(base)
        if hours:
            row["hours"] = [self._hours(base, *one) for one in hours]
        self._add_variants(row, base)
        self.row = row

    def _in_force(self) -> tuple[_Prices, list[tuple[time, time, _Prices]]]:
        """Returns the prices of the whole day, and those of its hours, in the order in which they are looked at."""
        if not isinstance(self.model.prices, list):
            return _stated(self.model.prices), []
        hours: list[tuple[time, time, _Prices]] = []
        for one in reversed(self.model.prices):
            start = getattr(one.constraint, "start_time", None)
            if start is not None:
                hours.append((_utc(start), _utc(one.constraint.end_time), _stated(one.prices)))
            elif _is_active(one.constraint, self.day):
                return _stated(one.prices), hours
        return (_stated(self.model.prices[0].prices) if self.model.prices else {}), hours

    def _table(self, prices: _Prices, place: str) -> Row:
        """Returns the rates and fees of a table, without its steps, and notes what has no counterpart."""
        table: Row = {}
        for key, price in prices.items():
            base = _base(price)
            if kind := RATES.get(key):
                if kind not in table or key == "cache_write_mtok":
                    table[kind] = _usd(base)
            elif tool := FEES.get(key):
                table.setdefault("per_call", {})[tool] = _usd(base / _THOUSAND)
            elif key == _PER_REQUEST:
                table["per_request"] = _usd(base / _THOUSAND)
            elif key not in UNITS or place:
                self.lost.append(f"{place}{key} = {base:f} has no counterpart")
            if key not in RATES and hasattr(price, "tiers"):
                self.lost.append(f"{place}{key} has steps, and only rates of tokens have steps here")
        return {**{kind: table[kind] for kind in KINDS if kind in table}, **table}

    def _units(self, prices: _Prices) -> dict[str, str]:
        units: dict[str, str] = {}
        for key, (unit, number) in UNITS.items():
            if key not in prices:
                continue
            stated = _usd(_base(prices[key]) / number)
            if units.setdefault(unit, stated) != stated:
                self.lost.append(f"{key} = {_base(prices[key]):f} has no counterpart beside {unit} = {units[unit]}")
        return units

    def _complete(self, row: Row) -> None:
        """States 0 for a side of which the data has no price, if the other one has: embeddings have no output."""
        sides = {kind: _side(kind) for kind in KINDS if kind in row}
        for side in {"input", "output"} - set(sides.values()) if sides else ():
            row[side] = "0"
            self.remarks.append(f"the data has no price of {side} tokens")

    def _above(self, prices: _Prices) -> Row:
        return {"above": _steps(prices)} if _starts_of(prices) else {}

    def _hours(self, base: _Prices, start: time, end: time, prices: _Prices) -> Row:
        span: Row = {"from": start.strftime("%H:%M"), "to": end.strftime("%H:%M")}
        place = f"hours from {span['from']}: "
        if _starts_of(prices):
            self.lost.append(f"{place}steps by prompt have no counterpart: the highest rates are written")
        return {**span, **self._table(_filled(_highest(prices), base), place)}

    def _add_variants(self, row: Row, base: _Prices) -> None:
        contexts: dict[tuple[str, str], _Prices] = {}
        for variant in self.model.price_variants or ():
            prices = _stated(variant.prices)
            if not prices or not _is_active(variant.constraint, self.day):
                continue
            context = next(iter(variant.when.items())) if len(variant.when) == 1 else ("", "")
            if hasattr(variant.constraint, "start_time"):
                context = ("", "")
            if context[0] not in _TABLES or context == ("service_tier", "default"):
                said = ", ".join(f"{name} = {value}" for name, value in variant.when.items())
                self.lost.append(f"the prices for {said} have no counterpart")
                continue
            known = contexts.setdefault(context, {})
            known.update({key: price for key, price in prices.items() if key not in known})
        for (name, value), prices in contexts.items():
            if _TABLES[name] == "tiers":
                if tier := self._tier(value, base, prices):
                    row.setdefault("tiers", {})[value] = tier
            elif when := self._when(name, value, prices):
                row.setdefault("when", {}).setdefault(name, {})[value] = when

    def _tier(self, name: str, base: _Prices, prices: _Prices) -> Row:
        """A tier has steps of its own where the row or the tier has any: those of the row state other rates."""
        tier = self._table(prices, f"tiers.{name}: ")
        whole = {**base, **prices}
        starts = sorted({*_starts_of(base), *_starts_of(whole)})
        if starts:
            stepped = {key: whole[key] for key in RATES if key in whole and _has_steps(key, base, prices)}
            tier["above"] = {str(start): _rates_at(stepped, start) for start in starts}
        return tier

    def _when(self, name: str, value: str, prices: _Prices) -> Row:
        place = f"when.{name}.{value}: "
        if _starts_of(prices):
            self.lost.append(f"{place}steps by prompt have no counterpart: the highest rates are written")
        return self._table(_highest(prices), place)


def _stated(prices: Any) -> _Prices:
    """Returns the prices that a set of them states, by the package's names."""
    return {key: price for key, price in vars(prices).items() if price is not None and not key.startswith("_")}


def _is_active(constraint: Any, day: date) -> bool:
    start = getattr(constraint, "start_date", None)
    return start is None or start <= day


def _utc(moment: time) -> time:
    whole = datetime.combine(date(1970, 1, 2), moment)
    return (whole if moment.tzinfo is None else whole.astimezone(UTC)).time()


def _base(price: Any) -> Decimal:
    return Decimal(getattr(price, "base", price))


def _at(price: Any, start: int) -> Decimal:
    """Returns a price for prompts of more than `start` tokens: that of the largest step which they exceed."""
    found = _base(price)
    for step in getattr(price, "tiers", ()):
        if step.start <= start:
            found = Decimal(step.price)
    return found


def _starts_of(prices: _Prices) -> set[int]:
    """Returns the steps of the rates of tokens."""
    return {step.start for key in RATES if key in prices for step in getattr(prices[key], "tiers", ())}


def _has_steps(key: str, base: _Prices, prices: _Prices) -> bool:
    return key in prices or hasattr(base.get(key), "tiers")


def _rates_at(prices: _Prices, start: int) -> dict[str, str]:
    return {RATES[key]: _usd(_at(price, start)) for key, price in prices.items()}


def _steps(prices: _Prices) -> dict[str, dict[str, str]]:
    stepped = {key: prices[key] for key in RATES if key in prices and hasattr(prices[key], "tiers")}
    return {str(start): _rates_at(stepped, start) for start in sorted(_starts_of(prices))}


def _highest(prices: _Prices) -> _Prices:
    """Returns prices without steps: of those that have some, the highest."""
    return {
        key: max(_base(price), *(Decimal(step.price) for step in price.tiers)) if hasattr(price, "tiers") else price
        for key, price in prices.items()
    }


def _filled(prices: _Prices, base: _Prices) -> _Prices:
    """Returns the prices of hours, which replace all of the row: what only the row states has its parent's rate."""
    names = {kind: key for key, kind in reversed(list(RATES.items()))}
    filled = dict(prices)
    for kind in KINDS:
        parent: str | None = kind
        while parent is not None and names.get(parent) not in filled:
            parent = KINDS[parent]
        if names.get(kind) in base and names[kind] not in filled:
            filled[names[kind]] = filled[names[parent]] if parent is not None else Decimal(0)
    for key, price in base.items():
        if key in FEES or key == _PER_REQUEST:
            filled.setdefault(key, Decimal(0) if key not in prices else price)
    return filled


def _side(kind: str) -> str:
    return "output" if kind.startswith("output") or kind in ("reasoning", "citation") else "input"


def _usd(amount: Decimal) -> str:
    """Returns an amount as the configuration has it, rounded up to nine decimals."""
    text = format(amount.quantize(_FINEST, rounding=ROUND_CEILING), "f")
    return text.rstrip("0").rstrip(".") or "0"
