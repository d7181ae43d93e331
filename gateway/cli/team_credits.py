"""`gateway credits`: grant, adjust, show. Amounts are decimal USD; each movement is in the team's journal."""

from __future__ import annotations

from typing import Annotated

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, team_path
from gateway.cli.signatures import Group, argument, option

app = Group(help="A team's balance.")

_Note = Annotated[str | None, option("Why; kept in the journal.")]


@app.command()
def grant(
    team: options.TeamArgument,
    usd: Annotated[str, argument("How much, such as 25.00.")],
    *,
    note: _Note = None,
    idempotency_key: options.IdempotencyKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Grant credits."""
    _move(team, "grant", usd, note, idempotency_key, as_json=as_json)


@app.command(context_settings={"ignore_unknown_options": True})  # -5 is an amount here, not a flag
def adjust(
    team: options.TeamArgument,
    usd: Annotated[str, argument("How much, with its sign, such as -2.50.")],
    *,
    note: _Note = None,
    idempotency_key: options.IdempotencyKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Correct a balance, up or down."""
    _move(team, "adjust", usd, note, idempotency_key, as_json=as_json)


@app.command("show")
def show_(team: options.TeamArgument, *, as_json: options.AsJson = False) -> None:
    """Show the balance: granted = available + held + spent."""
    with AdminClient.from_environment() as client:
        _show(client.get(f"{team_path(team)}/credits"), as_json=as_json)


def _move(team: str, kind: str, usd: str, note: str | None, idempotency_key: str | None, *, as_json: bool) -> None:
    body = options.given(kind=kind, amount_usd=usd, note=note)
    with AdminClient.from_environment() as client:
        _show(client.post(f"{team_path(team)}/credits", body, idempotency_key=idempotency_key), as_json=as_json)


def _show(answer: Json, *, as_json: bool) -> None:
    if as_json:
        output.as_json(answer)
    else:
        output.fields(output.balance_fields(answer))
