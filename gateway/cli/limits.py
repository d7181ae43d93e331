"""`gateway limits`: set and show a team's limits. A key's limits: `gateway keys limits`.

With `--until` they are overrides until a time. After that the former limits apply again.
"""

from __future__ import annotations

from typing import Annotated, Any

import click

from gateway.accounts.limit_hints import why_no_limit
from gateway.accounts.limit_names import LIMITS, MODELS, read_limit_name
from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, team_path
from gateway.cli.errors import USAGE, CliError
from gateway.cli.signatures import Group, argument, option
from gateway.protocol.wording import counted

app = Group(help="A team's limits. Changes apply from its next request on.")

LimitArguments = Annotated[
    list[str],
    argument(
        f"{', '.join(LIMITS)}; budgets of the last hours or days, such as budget_usd_24h or budget_tokens_7d; "
        "limits of some models, such as rpm@openai/*; of each end user, such as end_user.rpm; "
        "the value none removes one.",
        metavar="NAME=VALUE...",
    ),
]


Until = Annotated[
    str | None,
    option("Set them until this day or time only, such as 2026-12-24; then the limits of before hold again."),
]
NamesArgument = Annotated[
    list[str] | None, argument("Limits that hold for a while; without, all of them.", metavar="[NAME...]")
]


@app.command("set")
def set_(
    team: options.TeamArgument, changes: LimitArguments, *, until: Until = None, as_json: options.AsJson = False
) -> None:
    """Set limits, such as rpm=600 budget_usd_day=5; NAME=none removes one."""
    with AdminClient.from_environment() as client:
        changed = client.patch(team_path(team), changes_of(changes, until))
    if as_json:
        output.as_json(changed)
    else:
        output.limits_table(changed["limits"])


@app.command()
def restore(team: options.TeamArgument, names: NamesArgument = None, *, as_json: options.AsJson = False) -> None:
    """End overrides now, so that the former limits apply again."""
    with AdminClient.from_environment() as client:
        changed = client.patch(team_path(team), ended(client.get(team_path(team)), names))
    if as_json:
        output.as_json(changed)
    else:
        output.limits_table(changed["limits"])


@app.command("show")
def show_(
    team: options.TeamArgument,
    *,
    end_user: Annotated[
        str | None,
        option('The limits of each end user instead, and what remains of them for this one; "": those who name none.'),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show each limit and what remains of it."""
    with AdminClient.from_environment() as client:
        if end_user is None:
            found = client.get(team_path(team))["limits"]
        else:
            found = client.get(f"{team_path(team)}/end-user-limits", {"end_user": end_user})
    if as_json:
        output.as_json(found)
    elif end_user is None:
        output.limits_table(found)
    else:
        _print_end_user(team, found)


def _print_end_user(team: str, found: Json) -> None:
    """Prints what remains of the limits of each end user, of the team and of its keys, for one end user."""
    counts = [("the team", found), *((f"key {key['name']}", key) for key in found["keys"])]
    running = found["running"] if found["limits"] else sum(key["running"] for key in found["keys"])
    output.table(
        ("OF", *output.LIMIT_COLUMNS),
        [(whose, *row) for whose, count in counts for row in output.limit_rows(count["limits"])],
        empty=f"no limits of each end user: {options.program()} limits set {options.word(team)} end_user.rpm=10",
    )
    if any(count["limits"] for _, count in counts):
        click.echo(f"\n{counted(running, 'request')} running" if running else "\nnone of its requests runs")
    if found["keys_left_out"]:
        click.echo("more keys have such limits than are shown")


def changes_of(words: list[str], until: str | None) -> dict[str, Any]:
    """Returns the body that sets limits, or overrides until a time."""
    limits = limits_of(words)
    if until is None:
        return {"limits": limits}
    return {"overrides": {name: {"limit": value, "until": until} for name, value in limits.items()}}


def ended(account: Json, names: list[str] | None) -> dict[str, Any]:
    """Returns the body that ends overrides of a team or key. Raises CliError for other limits."""
    there = [name for name, limit in account["limits"].items() if limit.get("override")]
    for name in names or ():
        if name not in there:
            raise CliError(f"{name!r} is not set for a while; what is: {', '.join(there) or 'nothing'}")
    return {"overrides": dict.fromkeys(names or there)}


def limits_of(changes: list[str]) -> dict[str, Any]:
    """Parses NAME=VALUE words into the API's fields. Raises CliError for unknown limits."""
    out: dict[str, Any] = {}
    for word in changes:
        name, separator, value = word.partition("=")
        plain, at, pattern = name.partition(MODELS)
        plain = plain.replace("-", "_")
        name = f"{plain}{at}{pattern}"
        if (read := read_limit_name(name)) is None:
            raise CliError(f"{name!r} is not a limit{why_no_limit(name)}", exit_code=USAGE)
        if not separator or not value:
            raise CliError(f"{word!r}: give a value, such as {name}=10, or {name}=none", exit_code=USAGE)
        if value == "none":
            out[name] = None
        elif read.is_money:
            out[name] = value
        elif value.isascii() and value.isdigit():
            out[name] = int(value)
        else:
            raise CliError(f"{word!r}: {name} is a whole number", exit_code=USAGE)
    return out
