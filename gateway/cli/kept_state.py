"""`gateway state`: how much is stored of a team's responses and conversations, and deleting it."""

from __future__ import annotations

from typing import Annotated

import click

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, team_path
from gateway.cli.signatures import Group, option

app = Group(help="What the gateway keeps of responses and conversations.")

_Team = Annotated[str, option("The team, by name or id.", "--team")]


@app.command("usage")
def usage(team: _Team, *, as_json: options.AsJson = False) -> None:
    """Show how much is kept of a team."""
    with AdminClient.from_environment() as client:
        _show(client.get(f"{team_path(team)}/state"), as_json=as_json)


@app.command("purge")
def purge(
    team: _Team,
    *,
    yes: Annotated[bool, option("Do not ask.", "--yes")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Delete all of it. What runs in the background is cancelled; clients cannot continue what was deleted."""
    if not yes:
        click.confirm(f"Delete all stored responses and conversations of {team}?", abort=True)
    with AdminClient.from_environment() as client:
        _show(client.delete(f"{team_path(team)}/state"), as_json=as_json)


def _show(answer: Json, *, as_json: bool) -> None:
    if as_json:
        output.as_json(answer)
        return
    names = ("team", "responses", "response_bytes", "conversations", "conversation_bytes", "background")
    output.fields({name.replace("_", " "): answer[name] for name in names})
