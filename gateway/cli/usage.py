"""`gateway usage`: who spent how much, with bars. The figures are the ledger's."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final

import typer

from gateway.cli import options, show
from gateway.cli.client import AdminClient, Json

BAR: Final = 30


class By(StrEnum):
    """What a row is about."""

    MODEL = "model"
    KEY = "key"
    TEAM = "team"
    TIME = "time"


class Step(StrEnum):
    """How wide a step of time is."""

    HOUR = "hour"
    DAY = "day"


def usage(
    *,
    team: Annotated[str | None, typer.Option(help="One team; without it, all.")] = None,
    by: Annotated[By, typer.Option(help="What a row is about.")] = By.TEAM,
    since: Annotated[str | None, typer.Option("--from", help="ISO 8601, such as 2026-11-01.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="ISO 8601, not included.")] = None,
    step: Annotated[Step, typer.Option(help="How wide a step of time is.")] = Step.DAY,
    as_json: options.AsJson = False,
) -> None:
    """Usage and spend, by model, key, team or time; the last 30 days by default."""
    asked = options.given(team=team, step=step.value, to=until)
    asked |= {} if by is By.TIME else {"by": by.value}
    asked |= {"from": since} if since else {}
    with AdminClient.from_environment() as client:
        found = client.get("/usage", asked)
    if as_json:
        show.as_json(found)
        return
    rows = found["data"] if by is By.TIME else found["groups"]
    most = max((Decimal(row["cost_usd"]) for row in rows), default=Decimal(0))
    show.table(
        (by.value.upper(), "REQUESTS", "INPUT", "CACHED", "OUTPUT", "COST USD", "COST"),
        [
            (
                _name(row, by),
                row["requests"],
                row["input_tokens"],
                row["cached_input_tokens"],
                row["output_tokens"],
                row["cost_usd"],
                bar(Decimal(row["cost_usd"]), most) or " ",
            )
            for row in rows
        ],
        empty=f"Nothing was used from {found['from']} to {found['to']}.",
    )
    if rows:
        total = found["total"]
        typer.echo(f"\n{total['requests']} requests, {total['cost_usd']} USD, {found['from']} to {found['to']}")


def bar(value: Decimal, most: Decimal) -> str:
    """A bar as long as the value's share of the largest; what is not nothing has one cell at least."""
    if value <= 0 or most <= 0:
        return ""
    return "█" * max(1, round(BAR * value / most))


def _name(row: Json, by: By) -> str:
    if by is By.TIME:
        return str(row["start"])
    if by is By.KEY:
        return f"{row['team']}/{row['key'] or row['key_id']}"
    return str(row[by.value])
