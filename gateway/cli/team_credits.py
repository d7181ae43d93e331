"""`gateway credits`: grant, adjust, show. Amounts are decimal USD; each movement is in the team's journal."""

from __future__ import annotations

from typing import Annotated, Final

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, team_path
from gateway.cli.signatures import Group, argument, option

app = Group(help="A team's balance.")

_Note = Annotated[str | None, option("Why; kept in the journal.")]
_EXPIRES: Final = "When they expire: a day or a time, such as 2027-01-31. What expires first is spent first."
_EXPIRING: Final = "Correct the credits that expire then. Without it, those that never expire."


@app.command()
def grant(
    team: options.TeamArgument,
    usd: Annotated[str, argument("How much, such as 25.00.")],
    *,
    expires: Annotated[str | None, option(_EXPIRES)] = None,
    note: _Note = None,
    idempotency_key: options.IdempotencyKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Grant credits."""
    body = options.given(kind="grant", amount_usd=usd, note=note, expires_at=expires)
    _move(team, body, idempotency_key, as_json=as_json)


@app.command(context_settings={"ignore_unknown_options": True})  # -5 is an amount here, not a flag
def adjust(
    team: options.TeamArgument,
    usd: Annotated[str, argument("How much, with its sign, such as -2.50.")],
    *,
    expires: Annotated[str | None, option(_EXPIRING)] = None,
    note: _Note = None,
    idempotency_key: options.IdempotencyKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Correct a balance, up or down."""
    body = options.given(kind="adjust", amount_usd=usd, note=note, expires_at=expires)
    _move(team, body, idempotency_key, as_json=as_json)


@app.command("show")
def show_(team: options.TeamArgument, *, as_json: options.AsJson = False) -> None:
    """Show the balance: granted = available + held + spent; and what of it will expire."""
    with AdminClient.from_environment() as client:
        _show(client.get(f"{team_path(team)}/credits"), as_json=as_json)


def _move(team: str, body: Json, idempotency_key: str | None, *, as_json: bool) -> None:
    with AdminClient.from_environment() as client:
        _show(client.post(f"{team_path(team)}/credits", body, idempotency_key=idempotency_key), as_json=as_json)


def _show(answer: Json, *, as_json: bool) -> None:
    if as_json:
        output.as_json(answer)
    else:
        output.fields(output.balance_fields(answer))
