"""`gateway teams`: create, list, show."""

from __future__ import annotations

from typing import Annotated, Any

import click

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, team_path
from gateway.cli.limits import limits_of
from gateway.cli.signatures import Group, argument, option

app = Group(help="Teams: their credits, limits and allowed models.")


@app.command()
def create(  # noqa: PLR0913 - the command's flags
    name: Annotated[str, argument("The team's name.")],
    *,
    credits_usd: Annotated[str | None, option("Initial credits in USD, such as 25.00.", "--credits")] = None,
    unmetered: Annotated[bool, option("Requests are never refused because of the balance.", "--unmetered")] = False,
    rpm: options.Rpm = None,
    tpm: options.Tpm = None,
    concurrency: options.Concurrency = None,
    max_output_tokens: options.MaxOutputTokens = None,
    budget_usd_hour: options.BudgetUsd = None,
    budget_usd_day: options.BudgetUsd = None,
    budget_usd_month: options.BudgetUsd = None,
    budget_usd_total: options.BudgetUsd = None,
    budget_tokens_hour: options.BudgetTokens = None,
    budget_tokens_day: options.BudgetTokens = None,
    budget_tokens_month: options.BudgetTokens = None,
    budget_tokens_total: options.BudgetTokens = None,
    limit: options.Limits = None,
    models: options.Models = None,
    operations: options.Operations = None,
    timezone: options.Timezone = None,
    anchor: options.Anchor = None,
    expires_at: options.ExpiresAt = None,
    idempotency_key: options.IdempotencyKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Create a team."""
    limits = options.limits(locals()) | limits_of(limit or [])
    body = options.given(
        name=name,
        credits_usd=credits_usd,
        metered=False if unmetered else None,
        models=options.listed(models),
        operations=options.listed(operations),
        timezone=timezone,
        anchor=anchor,
        expires_at=expires_at,
        limits=limits or None,
    )
    with AdminClient.from_environment() as client:
        team = client.post("/teams", body, idempotency_key=idempotency_key)
    if as_json:
        output.as_json(team)
    else:
        _show(team)
        click.echo(f"\nA key for it: {options.program()} keys create {options.word(name, team['id'])} --name LABEL")


@app.command("list")
def list_(*, every: options.All = False, as_json: options.AsJson = False) -> None:
    """List the teams."""
    with AdminClient.from_environment() as client:
        teams = list(client.every("/teams", {"all": str(every).lower()}))
    if as_json:
        output.as_json(teams)
        return
    output.table(
        ("NAME", "ID", "STATUS", "AVAILABLE USD", "HELD", "SPENT", "LIMITS", "MODELS"),
        [_row(team) for team in teams],
        empty=f"No teams yet: {options.program()} teams create NAME",
    )


@app.command("show")
def show_(team: options.TeamArgument, *, as_json: options.AsJson = False) -> None:
    """Show one team: balance, limits and what remains of them."""
    with AdminClient.from_environment() as client:
        found = client.get(team_path(team))
    if as_json:
        output.as_json(found)
    else:
        _show(found)


def _row(team: Json) -> tuple[Any, ...]:
    if team["fault"]:
        return (team["name"], team["id"], team["status"], f"faulty: {team['fault']}", "", "", "", "")
    balance = team["balance"]
    return (
        team["name"],
        team["id"],
        output.status(team),
        balance["available_usd"] if team["metered"] else "unmetered",
        balance["held_usd"],
        balance["spent_usd"],
        output.limits_line(team["limits"]),
        output.permitted_line(team["models"]),
    )


def _paused(pause: Json) -> str:
    return (
        f"since {pause['at']}: {pause['request_id']} cost more than was held for it ({options.program()} teams resume)"
    )


def _show(team: Json) -> None:
    output.fields(
        {
            "team": team["name"],
            "id": team["id"],
            "status": output.status(team),
            "metered": "yes" if team["metered"] else "no: requests are never refused because of the balance",
            **({"paused": _paused(team["paused"])} if team.get("paused") else {}),
            **({"fault": team["fault"]} if team["fault"] else output.balance_fields(team["balance"])),
            "models": output.permitted_line(team["models"]),
            "operations": output.permitted_line(team["operations"]),
            "periods": output.periods_line(team),
            "expires": team["expires_at"] or "never",
            **({"waiting": team["waiting"]} if team.get("waiting") else {}),
            "created": team["created_at"],
        }
    )
    click.echo()
    output.limits_table(team["limits"])
