"""`gateway reconcile`: compares the journal with the bill that a provider exports.

It reads the journals of all teams by the admin API, as `gateway ledger export` does, and the export row by row. The
exit code is 1 if the two sides differ by more than --tolerance, and 2 if the export cannot be read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import click

from gateway.billing.money import MoneyError, format_usd, parse_usd
from gateway.billing.provider_export import COLUMNS, Charge, ExportError, csv_rows, day_of, page_rows
from gateway.billing.reconciliation import (
    MAX_KEYS,
    Finding,
    Reconciliation,
    Report,
    Row,
    Source,
    Sums,
    TooManyKeysError,
)
from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, team_path
from gateway.cli.errors import REFUSED, USAGE, CliError
from gateway.cli.signatures import argument, option
from gateway.protocol.moments import parse_moment

_ENTRIES_AT_ONCE: Final = "1000"
_SHOWN: Final = 50
_MAX_JSON: Final = 64 * 2**20
"""The largest JSON text in characters. With JSON Lines, this is the bound of each line."""
_REPORTED: Final = ("usage", "upstream_cost")
"""The values of `settled_by` for charges that the provider has reported."""


def reconcile(  # noqa: PLR0913 - each parameter is an option
    file: Annotated[Path, argument("The provider's export: CSV, or OpenAI's costs or usage as JSON.")],
    *,
    upstream: Annotated[str, option("The upstream whose provider has made the export.")],
    since: Annotated[str, option("The first day (UTC): 2026-11-01.", "--from")],
    until: Annotated[str, option("The day (UTC) after the last one.", "--to")],
    columns: Annotated[
        str | None,
        option(f"Headings of a CSV that are not known: id=...,time=...; of {', '.join(COLUMNS)}."),
    ] = None,
    model: Annotated[
        list[str] | None, option("THEIRS=OURS: the name of a model in the export and in the journal.")
    ] = None,
    tolerance: Annotated[str, option("USD by which the sides may differ.")] = "0.01",
    limit: Annotated[int, option("How many differences are shown; JSON has all.", minimum=1)] = _SHOWN,
    max_keys: Annotated[int, option("How many ids, days and models are kept in memory.", minimum=1)] = MAX_KEYS,
    as_json: Annotated[bool, option("The result as JSON, for scripts.", "--json")] = False,
) -> None:
    """Compare the journal with a provider's export. The exit code is 1 if they differ by more than --tolerance."""
    first, end = _day(since, "--from"), _day(until, "--to")
    if first >= end:
        raise CliError("--from must be before --to, which is not included", exit_code=USAGE)
    named, allowed = _columns(columns), _tolerance(tolerance)
    books = Reconciliation(_pairs(model or [], "--model"), max_keys=max_keys)
    ignored = 0
    try:
        with AdminClient.from_environment() as client:
            _add_journal(books, client, upstream, {"from": str(first), "to": str(end), "limit": _ENTRIES_AT_ONCE})
        with file.open(encoding="utf-8-sig", newline="") as source:
            for charge in _charges(source, named):
                if first <= _date(charge) < end or books.knows(charge.row.response_id):
                    books.add_export(charge.row)
                else:
                    ignored += 1
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}", exit_code=USAGE) from None
    except ExportError as error:
        raise CliError(f"{file}: {error}", exit_code=USAGE) from None
    except TooManyKeysError:
        raise CliError(
            f"there are more than {max_keys} ids, days and models: choose a shorter period, or raise --max-keys",
            exit_code=USAGE,
        ) from None
    report = books.report()
    ok = report.is_within(allowed)
    if as_json:
        about = {"object": "reconciliation", "upstream": upstream, "from": since, "to": until, "ok": ok}
        output.as_json(about | {"tolerance_usd": format_usd(allowed), "ignored_rows": ignored} | _report_json(report))
    else:
        _print(report, ignored, limit)
    if not ok:
        sys.exit(REFUSED)


def _add_journal(books: Reconciliation, client: AdminClient, upstream: str, period: dict[str, str]) -> None:
    met = False
    for team in list(client.every("/teams", {"all": "true"})):
        models: tuple[str, str] = ("", "")  # an attempt comes after the entry of its request, which names the model
        for entry in client.every(f"{team_path(team['id'])}/journal", period):
            if entry["type"] == "attempt":
                told = entry["attempt"] or {}
                if told.get("upstream") == upstream:
                    met = True
                    books.add_journal(_attempt(entry, models[1] if models[0] == entry["request_id"] else ""))
                continue
            models = entry["request_id"] or "", entry["model"] or ""
            if entry["type"] == "settle" and entry["upstream"] == upstream:
                met = True
                books.add_journal(_settlement(entry))
    if not met and upstream not in (known := [one["name"] for one in client.get("/upstreams")["data"]]):
        raise CliError(f"there is no upstream {upstream!r}; there are {', '.join(known)}", exit_code=USAGE)


def _settlement(entry: Json) -> Row:
    usage = entry["usage"] or {}
    source: Source = "usage" if entry["settled_by"] in _REPORTED else "estimate"
    return Row(
        _day_of(entry),
        entry["model"] or "",
        entry.get("response_id") or "",  # older entries do not have it
        -parse_usd(entry["amount_usd"]),
        usage.get("input_tokens", 0),
        usage.get("output_tokens", 0),
        source,
    )


def _attempt(entry: Json, model: str) -> Row:
    told = entry["attempt"]
    return Row(_day_of(entry), model, "", parse_usd(told["estimate_usd"]), told["input_tokens"], 0, "attempt")


def _day_of(entry: Json) -> str:
    return day_of(int(datetime.fromisoformat(entry["at"]).timestamp() * 1000))


def _charges(source: TextIO, named: dict[str, str]) -> Iterator[Charge]:
    """Reads an export. Its first character tells JSON from CSV."""
    first = source.readline(_MAX_JSON + 1)
    while first and not first.strip():
        first = source.readline(_MAX_JSON + 1)
    if first.lstrip()[:1] not in ("{", "["):
        yield from csv_rows(_chain(first, source), named)
        return
    page = _json(first)
    if page is None:  # one text on several lines
        text = first + source.read(_MAX_JSON + 1)
        if len(text) > _MAX_JSON or (page := _json(text)) is None:
            raise ExportError(
                f"it is no JSON of at most {_MAX_JSON} characters; larger ones as JSON Lines, a page each"
            )
    yield from _pages(page)
    while line := source.readline(_MAX_JSON + 1):
        if line.strip():
            if (page := _json(line)) is None:
                raise ExportError(f"a line is no JSON of at most {_MAX_JSON} characters")
            yield from _pages(page)


def _pages(text: object) -> Iterator[Charge]:
    for page in text if isinstance(text, list) else [text]:
        yield from page_rows(page)


def _json(text: str) -> Any:
    """Returns the value of a JSON text, with exact fractions, or None if it is not JSON."""
    try:
        return json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError):
        return None


def _chain(first: str, rest: TextIO) -> Iterator[str]:
    yield first
    yield from rest


def _date(charge: Charge) -> date:
    return date.fromisoformat(charge.row.day)


def _day(text: str, option: str) -> date:
    try:
        return parse_moment(text, datetime.now(UTC)).astimezone(UTC).date()
    except ValueError as error:
        raise CliError(f"{option} {error}", exit_code=USAGE) from None


def _tolerance(text: str) -> int:
    try:
        nano_usd = parse_usd(text)
    except MoneyError as error:
        raise CliError(f"--tolerance: {error}", exit_code=USAGE) from None
    if nano_usd < 0:
        raise CliError("--tolerance is not negative", exit_code=USAGE)
    return nano_usd


def _columns(text: str | None) -> dict[str, str]:
    named = _pairs(options.listed(text) or [], "--columns")
    if unknown := named.keys() - COLUMNS.keys():
        raise CliError(f"--columns knows no {', '.join(sorted(unknown))}, only {', '.join(COLUMNS)}", exit_code=USAGE)
    return named


def _pairs(words: list[str], option: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    if any(not name or not value for name, _, value in pairs):
        raise CliError(f"{option} is NAME=VALUE", exit_code=USAGE)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _report_json(report: Report) -> Json:
    return {
        "unit": "usd" if report.has_costs else "tokens",
        "journal": _sums_json(report.journal),
        "export": _sums_json(report.export),
        "difference_usd": format_usd(report.difference_nano_usd) if report.has_costs else None,
        "absolute_difference_usd": format_usd(report.absolute_nano_usd) if report.has_costs else None,
        "agreed": report.agreed,
        "findings": [_finding_json(finding, has_costs=report.has_costs) for finding in report.findings],
    }


def _finding_json(finding: Finding, *, has_costs: bool) -> Json:
    return {
        "kind": finding.kind,
        "day": finding.day,
        "model": finding.model or None,
        "response_id": finding.response_id or None,
        "journal": _sums_json(finding.journal),
        "export": _sums_json(finding.export),
        "difference_usd": format_usd(finding.difference_nano_usd) if has_costs else None,
    }


def _sums_json(sums: Sums) -> Json:
    return {
        "rows": sums.rows,
        "cost_usd": format_usd(sums.nano_usd),
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "estimates": sums.estimates,
        "attempts": sums.attempts,
    }


def _print(report: Report, ignored: int, limit: int) -> None:
    unit = "USD" if report.has_costs else "TOKENS"
    output.table(
        ("WHAT", "DAY", "MODEL", "RESPONSE", f"JOURNAL {unit}", f"EXPORT {unit}", "DIFFERENCE", "RESTS ON"),
        [_cells(finding, has_costs=report.has_costs) for finding in report.findings[:limit]],
        empty="The journal and the export agree.",
    )
    if len(report.findings) > limit:
        click.echo(f"and {len(report.findings) - limit} more: --limit shows them, --json has all")
    journal, export = (_amount(sums, has_costs=report.has_costs) for sums in (report.journal, report.export))
    totals: dict[str, object] = {
        f"journal {unit}": f"{journal} in {report.journal.rows} entries{_rests_on(report.journal, ', of them ')}",
        f"export {unit}": f"{export} in {report.export.rows} rows",
    }
    if report.has_costs:
        totals["difference USD"] = format_usd(report.difference_nano_usd)
        totals["without signs USD"] = format_usd(report.absolute_nano_usd)
    if ignored:
        totals["outside the period"] = f"{ignored} rows of the export"
    output.fields(totals)


def _cells(finding: Finding, *, has_costs: bool) -> tuple[object, ...]:
    difference = format_usd(finding.difference_nano_usd) if has_costs else finding.difference_tokens
    return (
        finding.kind,
        finding.day,
        _shown(finding.model) or "all",
        _shown(finding.response_id),
        _amount(finding.journal, has_costs=has_costs),
        _amount(finding.export, has_costs=has_costs),
        difference,
        _rests_on(finding.journal),
    )


def _amount(sums: Sums, *, has_costs: bool) -> str:
    return format_usd(sums.nano_usd) if has_costs else f"{sums.input_tokens} + {sums.output_tokens}"


def _rests_on(sums: Sums, before: str = "") -> str:
    """Returns a note about the number of charges that are estimates or attempts."""
    told = [f"{count} {name}" for name, count in (("estimates", sums.estimates), ("attempts", sums.attempts)) if count]
    return before + ", ".join(told) if told else ""


def _shown(text: str) -> str:
    """Returns text of a file without control characters."""
    return "".join(one if one.isprintable() else "?" for one in text)
