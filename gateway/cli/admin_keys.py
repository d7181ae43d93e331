"""`gateway admins` (admin keys), `gateway whoami`, `gateway audit`."""

from __future__ import annotations

import itertools
import json
from enum import StrEnum
from typing import Annotated, Final

import click

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, segment
from gateway.cli.signatures import Group, argument, option

app = Group(help="Admin keys: for those who run the gateway, and for teams' leads.")


class Scope(StrEnum):
    """What an admin key permits."""

    ALL = "all"
    READ = "read"
    TEAM = "team"


@app.command()
def create(
    name: Annotated[str, argument("The name of its owner.")],
    *,
    scope: Annotated[Scope, option("all: everything; read: reading only; team: one team.")],
    team: Annotated[str | None, option("The team, for the scope team.")] = None,
    expires_at: options.ExpiresAt = None,
    idempotency_key: options.IdempotencyKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Create an admin key. Its text is not shown again."""
    body = options.given(name=name, scope=scope.value, team=team, expires_at=expires_at)
    with AdminClient.from_environment() as client:
        created = client.post("/admin-keys", body, idempotency_key=idempotency_key)
    if as_json:
        output.as_json(created)
        return
    output.fields({"key": created["key"], "id": created["id"], "scope": created["scope"]})
    click.echo("\nKeep it now: it is not shown again.")


@app.command("list")
def list_(*, as_json: options.AsJson = False) -> None:
    """List all admin keys except the root key."""
    with AdminClient.from_environment() as client:
        found = list(client.every("/admin-keys"))
    if as_json:
        output.as_json(found)
        return
    output.table(
        ("NAME", "ID", "SCOPE", "TEAM", "EXPIRES", "LAST USED"),
        [
            (a["name"], a["id"], a["scope"], a["team_id"], a["expires_at"] or "never", a["last_used_at"] or "never")
            for a in found
        ],
        empty=f"None yet: {options.program()} admins create NAME --scope read",
    )


@app.command()
def rotate(
    admin_key: Annotated[str, argument("The admin key's id.", metavar="ID")],
    *,
    overlap: options.Overlap = "24h",
    now: options.EndNow = False,
    yes: options.Yes = False,
    idempotency_key: options.IdempotencyKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Give an admin key a new secret. Its id and scope stay the same. The new text is not shown again."""
    overlap_s = 0 if now else options.seconds(overlap)
    if overlap_s == 0:
        options.confirm(f"End every secret that the admin key {admin_key!r} has now?", yes=yes)
    path = f"/admin-keys/{segment(admin_key)}/rotate"
    with AdminClient.from_environment() as client:
        rotated = client.post(path, {"overlap_s": overlap_s}, idempotency_key=idempotency_key)
    if as_json:
        output.as_json(rotated)
        return
    output.rotated(rotated, rotated["ending_secrets"])


@app.command()
def delete(
    admin_key: Annotated[str, argument("The admin key's id.", metavar="ID")],
    *,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
) -> None:
    """Delete an admin key. Its next request is refused."""
    options.confirm(f"Delete the admin key {admin_key!r} for ever?", yes=yes)
    with AdminClient.from_environment() as client:
        gone = client.delete(f"/admin-keys/{segment(admin_key)}")
    if as_json:
        output.as_json(gone)
    else:
        click.echo(f"{gone['name']} ({gone['id']}) is gone")


def whoami(*, as_json: options.AsJson = False) -> None:
    """Show whose admin key is used here, and what it permits."""
    with AdminClient.from_environment() as client:
        me = client.get("/whoami")
    if as_json:
        output.as_json(me)
    else:
        output.fields({"name": me["name"], "scope": me["scope"], "team": me["team_name"] or "all"})


_NO_CHANGE: Final = frozenset({"version", "workers", "waiting"})
"""Members of an answer that say how the action went, and not what it changed."""


def audit(
    *,
    team: Annotated[str | None, option("One team; without it, everything.")] = None,
    limit: Annotated[int, option("How many.", minimum=1, maximum=10_000)] = 20,
    as_json: options.AsJson = False,
) -> None:
    """Show what admins changed, newest first."""
    with AdminClient.from_environment() as client:
        found = list(itertools.islice(client.every("/audit", options.given(team=team)), limit))
    if as_json:
        output.as_json(found)
        return
    output.table(
        ("AT", "WHO", "ACTION", "ON", "CHANGED"),
        [(a["at"], a["actor_name"], a["action"], a["subject"], changed(a)) for a in found],
        empty="Nothing was changed.",
    )


def changed(action: Json) -> str:
    """Returns the changed fields with their new values."""
    before, after = action["before"] or {}, action["after"] or {}
    if not before:
        return ""
    compared = (name for name in after if name in before and name not in _NO_CHANGE)
    differing = {name: after[name] for name in compared if before[name] != after[name]}
    return json.dumps(differing, ensure_ascii=False) if differing else ""
