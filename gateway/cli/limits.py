"""`gateway limits`: set and show a team's limits. A key's limits: `gateway keys limits`.

With `--until` they hold for a while; then those of before hold again.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from gateway.accounts.limit_names import LIMITS, MODELS, OF_EACH_END_USER, read_limit_name, with_pattern
from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, team_path
from gateway.cli.errors import USAGE, CliError
from gateway.cli.signatures import Group, argument, option

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
    """End limits now that were set until a time, so that those of before hold again."""
    with AdminClient.from_environment() as client:
        changed = client.patch(team_path(team), ended(client.get(team_path(team)), names))
    if as_json:
        output.as_json(changed)
    else:
        output.limits_table(changed["limits"])


@app.command("show")
def show_(team: options.TeamArgument, *, as_json: options.AsJson = False) -> None:
    """Show each limit and what remains of it."""
    with AdminClient.from_environment() as client:
        limits = client.get(team_path(team))["limits"]
    if as_json:
        output.as_json(limits)
    else:
        output.limits_table(limits)


def changes_of(words: list[str], until: str | None) -> dict[str, Any]:
    """Returns the body that sets limits, or those until a time."""
    limits = limits_of(words)
    if until is None:
        return {"limits": limits}
    return {"overrides": {name: {"limit": value, "until": until} for name, value in limits.items()}}


def ended(account: Json, names: list[str] | None) -> dict[str, Any]:
    """Returns the body that ends limits of a team or key that hold for a while. Raises CliError for others."""
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
            if pattern and read_limit_name(plain) is not None:
                raise CliError(
                    f"{word!r}: no limit for {pattern!r}: name a model, or all below one part: a/*", exit_code=USAGE
                )
            near = difflib.get_close_matches(plain, (*LIMITS, *OF_EACH_END_USER), n=1)
            hint = f"; is it {with_pattern(near[0], pattern)}?" if near else f": {', '.join(LIMITS)}"
            raise CliError(f"{name!r} is not a limit{hint}", exit_code=USAGE)
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
