"""`gateway usage`: usage and spend with bars, refusals and durations.

The figures are the ledger's. Durations come from buckets and are shown as approximate.
"""

from __future__ import annotations

import sys
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import click

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json
from gateway.cli.errors import USAGE, CliError
from gateway.cli.files import parquet_writer, write_parquet
from gateway.cli.signatures import option
from gateway.reporting.csv_text import lines
from gateway.reporting.latency_buckets import duration

BAR: Final = 30
MOST: Final = 50


class By(StrEnum):
    """By what rows are grouped. VALUE: by the values of a tag."""

    MODEL = "model"
    KEY = "key"
    TEAM = "team"
    TIME = "time"
    USER = "user"
    TAGS = "tags"
    VALUE = "tag:NAME"


def by_of(text: str) -> By:
    """Reads `--by`. Raises CliError."""
    if text.startswith("tag:") and text != "tag:":
        return By.VALUE
    if text in {one.value for one in By} - {By.VALUE}:
        return By(text)
    raise CliError(f"--by {text}: one of {', '.join(By)}", exit_code=USAGE)


class Step(StrEnum):
    """The width of a step of time."""

    HOUR = "hour"
    DAY = "day"


def usage(  # noqa: PLR0913 - the command's flags
    *,
    team: Annotated[str | None, option("One team; without it, all.")] = None,
    by: Annotated[
        str, option("What a row is about: model, key, team, time, user, tag:NAME, or tags: the names there are.")
    ] = By.TEAM.value,
    since: Annotated[str | None, option("ISO 8601, such as 2026-11-01.", "--from")] = None,
    until: Annotated[str | None, option("ISO 8601, not included.", "--to")] = None,
    step: Annotated[Step, option("The width of a step of time.")] = Step.DAY,
    limit: Annotated[
        int | None, option("How many rows; the others are added up.", show_default="50", minimum=1, maximum=20_000)
    ] = None,
    as_json: options.AsJson = False,
    as_csv: Annotated[bool, option("All rows as CSV, for spreadsheets.", "--csv")] = False,
    parquet: Annotated[Path | None, option("All rows as Parquet, into this file.", metavar="FILE")] = None,
) -> None:
    """Show usage and spend by model, key, team, time, end user or tag; by default of the last 30 days."""
    asked = options.given(team=team, step=step.value, to=until, limit=limit)
    if sum((as_json, as_csv, parquet is not None)) > 1:
        raise CliError("--json, --csv and --parquet exclude one another", exit_code=USAGE)
    if limit is None and not as_json and not as_csv and parquet is None:
        asked["limit"] = MOST
    about = by_of(by)
    writer = parquet_writer() if parquet is not None else None
    asked |= {} if about is By.TIME else {"by": by}
    asked |= {"from": since} if since else {}
    if about is By.TAGS:
        asked = {name: asked[name] for name in ("team", "from", "to") if name in asked}
    with AdminClient.from_environment() as client:
        found = client.get("/usage/tags" if about is By.TAGS else "/usage", asked)
    if as_json:
        output.as_json(found)
    elif as_csv:
        sys.stdout.write(lines(_records(found, about), _COLUMNS[about]))
    elif writer is not None and parquet is not None:
        write_parquet(writer, parquet, _COLUMNS[about], _records(found, about))
    elif about is By.TAGS:
        _tags(found["data"])
    else:
        _table(found, about)


def _tags(tags: list[Json]) -> None:
    output.table(
        ("TAG", "VALUES", "REQUESTS", "INPUT", "CACHED", "OUTPUT", "COST USD"),
        [(tag["name"] or "(other names)", tag["values"], *(tag[figure] for figure in _FIGURES)) for tag in tags],
        empty="No request had a tag.",
    )


def _table(found: Json, by: By) -> None:
    rows = found["data"] if by is By.TIME else found["groups"]
    named = [(_name(row, by), row) for row in rows]
    if found["others"]:
        named.append((f"{found['others']['groups']} others", found["others"]))
    highest = max((Decimal(row["cost_usd"]) for row in rows), default=Decimal(0))
    timed = by in (By.MODEL, By.TEAM, By.TIME)  # only these groups have durations
    heading = found["by"] if by is By.VALUE else by.value
    output.table(
        (
            *(heading.upper(), "REQUESTS", *(("REFUSED", "MEDIAN", "P95") if timed else ())),
            *("INPUT", "CACHED", "OUTPUT", "COST USD", "COST"),
        ),
        [_row(name, row, highest, timed=timed) for name, row in named],
        empty=f"Nothing was used from {found['from']} to {found['to']}.",
    )
    if rows:
        total = found["total"]
        click.echo(f"\n{total['requests']} requests, {total['cost_usd']} USD, {found['from']} to {found['to']}")
        if timed:
            click.echo("MEDIAN and P95 are durations of whole requests, accurate to within a third.")


_FIGURES: Final = ("requests", "input_tokens", "cached_input_tokens", "output_tokens", "cost_usd")
_COLUMNS: Final = MappingProxyType(
    {
        By.TIME: ("start", *_FIGURES, "refused", "median_ms", "p95_ms"),
        By.KEY: ("team", "team_id", "key", "key_id", *_FIGURES),
        By.USER: ("team", "team_id", "kind", "value", *_FIGURES),
        By.VALUE: ("team", "team_id", "tag", "kind", "value", *_FIGURES),
        By.TAGS: ("name", "values", *_FIGURES),
        By.TEAM: ("team", "team_id", *_FIGURES, "refused", "median_ms", "p95_ms"),
        By.MODEL: ("model", *_FIGURES, "refused", "median_ms", "p95_ms"),
    }
)
"""The columns that every row of a file has."""


def _records(found: Json, by: By) -> list[Json]:
    """Returns the rows of a file. The sum of the groups that are not listed comes last."""
    rows = found["data"] if by in (By.TIME, By.TAGS) else found["groups"]
    rows = [*rows, *([found["others"]] if found.get("others") else [])]
    times = [row.get("total_ms") or {} for row in rows]
    known = [
        {**row, "median_ms": took.get("median"), "p95_ms": took.get("p95")}
        for row, took in zip(rows, times, strict=True)
    ]
    return [{name: row.get(name) for name in _COLUMNS[by]} for row in known]


def bar(value: Decimal, highest: Decimal) -> str:
    """Returns a bar whose length is the value's share of the largest value.

    A value above zero has at least one cell.
    """
    if value <= 0 or highest <= 0:
        return ""
    return "█" * min(BAR, max(1, round(BAR * value / highest)))


def _row(name: str, row: Json, highest: Decimal, *, timed: bool) -> tuple[Any, ...]:
    took = row["total_ms"] or {} if timed else {}
    seen = (row["refused"], duration(took.get("median")), duration(took.get("p95"))) if timed else ()
    figures = (row["input_tokens"], row["cached_input_tokens"], row["output_tokens"], row["cost_usd"])
    return (name, row["requests"], *seen, *figures, bar(Decimal(row["cost_usd"]), highest) or " ")


def _name(row: Json, by: By) -> str:
    if by is By.TIME:
        return str(row["start"])
    if by is By.KEY:
        return f"{row['team']}/{row['key'] or row['key_id']}"
    if by in (By.USER, By.VALUE):
        return f"{row['team']}/{row['value'] or _UNNAMED[row['kind']]}"
    return str(row[by.value])


_UNNAMED: Final = MappingProxyType({"none": "(none)", "other": "(other)"})
