"""`gateway keys`: create, list, show.

The other commands are in key_changes.py. A key's text is shown once, at creation.
"""

from __future__ import annotations

from typing import Annotated

import click

from gateway.cli import options, output
from gateway.cli.client import AdminApiError, AdminClient, Json, segment, team_path
from gateway.cli.errors import CliError
from gateway.cli.limits import limits_of
from gateway.cli.signatures import Group, argument, option

app = Group(help="Keys of a team.")


KeyArgument = Annotated[str, argument("team/key (id or label), or a key's id alone.", metavar="KEY")]


@app.command()
def create(  # noqa: PLR0913 - the command's flags
    team: options.TeamArgument,
    *,
    name: Annotated[str, option("A label: who or what uses the key.")],
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
    expires_at: options.ExpiresAt = None,
    cut_at_cap: Annotated[bool, option("End a stream where it would exceed its hold.", "--cut-at-cap")] = False,
    idempotency_key: options.IdempotencyKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Create a key. Its text is not shown again: the gateway stores only a hash."""
    limits = options.limits(locals()) | limits_of(limit or [])
    body = options.given(
        name=name,
        models=options.listed(models),
        operations=options.listed(operations),
        expires_at=expires_at,
        limits=limits or None,
        cut_at_cap=cut_at_cap or None,
    )
    with AdminClient.from_environment() as client:
        key = client.post(f"{team_path(team)}/keys", body, idempotency_key=idempotency_key)
    if as_json:
        output.as_json(key)
        return
    output.fields({"key": key["key"], "id": key["id"], "name": key["name"]})
    click.echo("\nKeep it now: it is not shown again.")


@app.command("list")
def list_(team: options.TeamArgument, *, every: options.All = False, as_json: options.AsJson = False) -> None:
    """List a team's keys that can be used."""
    with AdminClient.from_environment() as client:
        keys = list(client.every(f"{team_path(team)}/keys", {"all": str(every).lower()}))
    if as_json:
        output.as_json(keys)
        return
    output.table(
        ("NAME", "ID", "STATUS", "EXPIRES", "LAST USED", "LIMITS", "MODELS"),
        [
            (
                key["name"],
                key["id"],
                output.status(key),
                key["expires_at"] or "never",
                last_used(key) or "never",
                output.limits_line(key["limits"]),
                output.permitted_line(key["models"]),
            )
            for key in keys
        ],
        empty=f"No keys yet: {options.program()} keys create {options.word(team)} --name LABEL",
    )


@app.command("show")
def show_(
    key: KeyArgument,
    of_team: Annotated[str | None, argument("Or TEAM KEY, in two words.", metavar="[KEY]")] = None,
    *,
    as_json: options.AsJson = False,
) -> None:
    """Show one key: its limits, what remains of them, and when each of its secrets was last used."""
    with AdminClient.from_environment() as client:
        found = find_key(client, key) if of_team is None else find(client, key, of_team)
    if as_json:
        output.as_json(found)
        return
    output.fields(
        {
            "key": found["name"],
            "id": found["id"],
            "status": output.status(found),
            "models": output.permitted_line(found["models"]),
            "operations": output.permitted_line(found["operations"]),
            "expires": found["expires_at"] or "never",
            "created": found["created_at"],
            "set by operators": ", ".join(found["set_by_operator"]) or "nothing: the team may lift every limit",
        }
    )
    click.echo()
    output.limits_table(found["limits"])
    click.echo()
    output.table(
        ("SECRET (SHA-256)", "WORKS UNTIL", "LAST USED"),
        [
            (secret["sha256_prefix"], secret["until"] or "the key ends", secret["last_used_at"] or "never")
            for secret in found["secrets"]
        ],
        empty="no secrets",
    )


def find(client: AdminClient, team: str, key: str) -> Json:
    """Returns a key by its id, or by its label if only one key has it. Ended keys count if no other has the label."""
    path = f"{team_path(team)}/keys"
    try:
        return client.get(f"{path}/{segment(key)}")
    except AdminApiError as refused:
        if refused.code != "key_not_found":
            raise
        for every in ("false", "true"):
            same = [found for found in client.every(path, {"all": every}) if found["name"] == key]
            if same:
                break
        else:
            raise
    if len(same) > 1:
        ids = ", ".join(found["id"] for found in same)
        raise CliError(f"the team {team!r} has {len(same)} keys named {key!r}; take an id: {ids}")
    return client.get(f"{path}/{same[0]['id']}")


def find_key(client: AdminClient, text: str) -> Json:
    """Returns a key by team/key, or by its id alone. Raises CliError."""
    team, separator, key = text.rpartition("/")
    return find(client, team, key) if separator else client.get(f"/keys/{segment(key)}")


def last_used(key: Json) -> str | None:
    """Returns when any of a key's secrets was last used."""
    return max((secret["last_used_at"] for secret in key["secrets"] if secret["last_used_at"]), default=None)
