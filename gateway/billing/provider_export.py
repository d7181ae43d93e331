"""What providers export of what they bill, as rows of one form. Pure: lines of text in, rows out.

columns_of(headings, named)       which column of a CSV holds what; common headings are known
csv_rows(lines, named)            -> (line number, Charge), row by row
page_rows(page)                   one page of OpenAI's /v1/organization/costs or /usage/completions -> Charge

A cell is data: one that begins with = + - or @ is read as it stands. Numbers are read exactly, and amounts are rounded
up to a nano-USD, as those of the ledger are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.billing.money import MoneyError, round_up_signed_usd
from gateway.billing.reconciliation import Row

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "id": ("response_id", "generation_id", "completion_id", "id"),
        "time": ("time", "timestamp", "created_at", "created", "date", "start_time", "day", "usage_date", "at"),
        "model": ("model", "model_name", "model_id", "model_slug", "model_permaslug", "line_item"),
        "cost": ("cost", "cost_usd", "cost_total", "total_cost", "amount", "amount_usd", "amount_value", "cost_in_usd"),
        "input_tokens": ("input_tokens", "prompt_tokens", "tokens_prompt", "n_context_tokens_total"),
        "output_tokens": ("output_tokens", "completion_tokens", "tokens_completion", "n_generated_tokens_total"),
    }
)  # fmt: skip
"""What a row states, and the headings under which providers state it, the likelier first."""
_MS_FROM: Final = 100_000_000_000  # a Unix time above it is in milliseconds: in seconds it is the year 5138
_DELIMITERS: Final = ",;\t|"
_SIGN: Final = re.compile(r"^([+-]?)\s*(?:\$|USD\s*)|\s*USD$", re.IGNORECASE)


class ExportError(ValueError):
    """The export cannot be read. The text says where and why."""


class Charge(NamedTuple):
    """A row of an export and the time that it states, in ms since 1970."""

    at_ms: int
    row: Row


def columns_of(headings: Sequence[str], named: Mapping[str, str]) -> dict[str, int]:
    """Returns where each of COLUMNS stands. `named` says under which heading, where it does. Raises ExportError."""
    plain = [_plain(heading) for heading in headings]
    found: dict[str, int] = {}
    for column, known in COLUMNS.items():
        if column in named:
            wanted = [index for index, heading in enumerate(headings) if heading.strip() == named[column].strip()]
            if not wanted:
                raise ExportError(f"no column {named[column]!r}; the columns are {', '.join(map(repr, headings))}")
            found[column] = wanted[0]
        elif guessed := [plain.index(heading) for heading in known if heading in plain]:
            found[column] = guessed[0]
    if "time" not in found:
        raise ExportError(_unnamed("time", headings))
    if not found.keys() & {"cost", "input_tokens", "output_tokens"}:
        raise ExportError(_unnamed("cost", headings))
    return found


def csv_rows(lines: Iterable[str], named: Mapping[str, str]) -> Iterator[Charge]:
    """Reads a CSV with a line of headings, row by row. Raises ExportError."""
    source = iter(lines)
    first = next(source, "").removeprefix("\ufeff")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(_chained(first, source), delimiter=delimiter)
    try:
        at = columns_of(next(reader, []), named)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield _csv_row(cells, at, reader.line_num)
    except csv.Error as error:
        raise ExportError(f"line {reader.line_num}: {error}") from None


def page_rows(page: object) -> Iterator[Charge]:
    """Reads one page of buckets. Numbers with a fraction are Decimal or text, never float. Raises ExportError."""
    buckets = page.get("data") if isinstance(page, dict) else None
    if not isinstance(buckets, list):
        raise ExportError('no page of costs or usage: it has no list "data"')
    for bucket in buckets:
        results = bucket.get("results", bucket.get("result")) if isinstance(bucket, dict) else None
        if not isinstance(results, list):
            raise ExportError('a bucket has no list "results"')
        at_ms = moment_ms(str(bucket.get("start_time")))
        for result in results:
            if not isinstance(result, dict):
                raise ExportError("a result is no object")
            yield Charge(at_ms, _result(result, day_of(at_ms)))


def moment_ms(text: str) -> int:
    """Reads ISO 8601, by default in UTC, or Unix time in seconds or milliseconds. Raises ExportError."""
    text = text.strip()
    try:
        if text.isascii() and text.isdigit() and len(text) != len("20261101"):
            return int(text) if int(text) >= _MS_FROM else int(text) * 1000
        moment = datetime.fromisoformat(text.removesuffix(" UTC"))
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ExportError(f"{text!r} is not a time: ISO 8601, or seconds since 1970") from None


def day_of(at_ms: int) -> str:
    """Returns the day of a time, in UTC. Raises ExportError where it is beyond the calendar."""
    try:
        return datetime.fromtimestamp(at_ms // 1000, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        raise ExportError(f"{at_ms} ms since 1970 is beyond the calendar") from None


def _csv_row(cells: Sequence[str], at: Mapping[str, int], line: int) -> Charge:
    told = {name: cells[index].strip() for name, index in at.items() if index < len(cells)}
    try:
        at_ms = moment_ms(told.get("time", ""))
        row = Row(
            day_of(at_ms),
            _model(told.get("model", "")),
            told.get("id", ""),
            _amount(told["cost"]) if told.get("cost") else (0 if "cost" in at else None),
            _count(told.get("input_tokens")),
            _count(told.get("output_tokens")),
        )
    except ExportError as error:
        raise ExportError(f"line {line}: {error}") from None
    return Charge(at_ms, row)


def _result(result: Mapping[str, Any], day: str) -> Row:
    amount = result.get("amount")
    nano_usd = None
    if isinstance(amount, dict):
        if str(amount.get("currency", "usd")).casefold() != "usd":
            raise ExportError(f"an amount is in {amount['currency']!r}, not in USD")
        nano_usd = _amount(str(amount.get("value", "")))
    elif not result.keys() & {"input_tokens", "output_tokens"}:
        raise ExportError("a result has neither an amount nor tokens")
    counts = (None if result.get(name) is None else str(result[name]) for name in ("input_tokens", "output_tokens"))
    named = result.get("model") or result.get("line_item") or ""
    input_tokens, output_tokens = map(_count, counts)
    return Row(day, _model(str(named)), "", nano_usd, input_tokens, output_tokens)


def _model(name: str) -> str:
    """The model of a line of a bill: "gpt-5.2-2025-12-11, input" is about the model in front of the comma."""
    return name.partition(",")[0].strip()


def _amount(text: str) -> int:
    try:
        return round_up_signed_usd(_SIGN.sub(r"\1", text.strip()))
    except MoneyError as error:
        raise ExportError(str(error)) from None


def _count(text: str | None) -> int | None:
    if not text:
        return None
    whole = text.removesuffix(".0")
    if not (whole.isascii() and whole.isdigit()) or len(whole) > len(str(2**53)):
        raise ExportError(f"{text!r} is not a number of tokens")
    return int(whole)


def _plain(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", heading.strip().casefold()).strip("_")


def _unnamed(column: str, headings: Sequence[str]) -> str:
    shown = ", ".join(map(repr, headings)) or "none"
    return f"no column is known as the {column}; name it with --columns {column}=HEADING; the columns are {shown}"


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
