"""`gateway teams rename|delete|disable|enable|resume|expire|periods|allow|operations`: commands that change a team.

Limits: `gateway limits`.
"""

from __future__ import annotations

from typing import Annotated

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, team_path
from gateway.cli.errors import USAGE, CliError
from gateway.cli.signatures import argument
from gateway.cli.teams import app


@app.command()
def rename(
    team: options.TeamArgument,
    name: Annotated[str, argument("The new name.")],
    *,
    as_json: options.AsJson = False,
) -> None:
    """Rename a team."""
    _change(team, {"name": name}, as_json=as_json)


@app.command()
def delete(team: options.TeamArgument, *, yes: options.Yes = False, as_json: options.AsJson = False) -> None:
    """Delete a team for good. Its keys are refused and its name is free; journal and audit log stay, under its id."""
    with AdminClient.from_environment() as client:
        found = client.get(team_path(team))
        options.confirm(f"Delete the team {found['name']!r} ({found['id']}) for ever?", yes=yes)
        _shown(client.delete(team_path(found["id"])), as_json=as_json)


@app.command()
def disable(team: options.TeamArgument, *, yes: options.Yes = False, as_json: options.AsJson = False) -> None:
    """Refuse every request of a team until it is enabled."""
    options.confirm(f"Refuse every request of {team!r}?", yes=yes)
    _change(team, {"status": "disabled"}, as_json=as_json)


@app.command()
def enable(team: options.TeamArgument, *, as_json: options.AsJson = False) -> None:
    """Enable a disabled team."""
    _change(team, {"status": "active"}, as_json=as_json)


@app.command()
def resume(team: options.TeamArgument, *, as_json: options.AsJson = False) -> None:
    """Resume a team that was paused because a request cost more than was held for it."""
    _change(team, {"paused": False}, as_json=as_json)


@app.command()
def expire(
    team: options.TeamArgument,
    at: Annotated[str, argument('A day or a time, such as 2027-01-31, 2027-01-31T06:00:00Z or tomorrow; or "never".')],
    *,
    as_json: options.AsJson = False,
) -> None:
    """Set the time at which a team stops working."""
    _change(team, {"expires_at": None if at == "never" else at}, as_json=as_json)


@app.command()
def periods(
    team: options.TeamArgument,
    *,
    timezone: options.Timezone = None,
    anchor: options.Anchor = None,
    as_json: options.AsJson = False,
) -> None:
    """Set where a team's days, weeks, months and quarters begin, for its budgets and its usage; "none" removes one.

    It applies at once. The present period keeps its count and ends at its new end.
    """
    given = options.given(timezone=timezone, anchor=anchor)
    if not given:
        raise CliError("give --timezone, --anchor or both", exit_code=USAGE)
    _change(team, {name: None if value == "none" else value for name, value in given.items()}, as_json=as_json)


@app.command()
def allow(
    team: options.TeamArgument,
    models: Annotated[str, argument('Exact ids or "provider/*", separated by commas; "*" for all.')],
    *,
    as_json: options.AsJson = False,
) -> None:
    """Set the models that a team may use."""
    _change(team, {"models": options.listed(models)}, as_json=as_json)


@app.command()
def operations(
    team: options.TeamArgument,
    names: Annotated[str, argument('Such as "chat.completions,images.*", separated by commas; "*" for all.')],
    *,
    as_json: options.AsJson = False,
) -> None:
    """Set the operations that a team may use."""
    _change(team, {"operations": options.listed(names)}, as_json=as_json)


def _change(team: str, changes: Json, *, as_json: bool) -> None:
    with AdminClient.from_environment() as client:
        _shown(client.patch(team_path(team), changes), as_json=as_json)


def _shown(changed: Json, *, as_json: bool) -> None:
    if as_json:
        output.as_json(changed)
        return
    output.fields(
        {
            "team": changed["name"],
            "id": changed["id"],
            "status": output.status(changed),
            "models": output.permitted_line(changed["models"]),
            "operations": output.permitted_line(changed["operations"]),
            "periods": output.periods_line(changed),
            "expires": changed["expires_at"] or "never",
        }
    )
