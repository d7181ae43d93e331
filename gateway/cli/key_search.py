"""`gateway keys find`: finds the owner of a leaked key by its text or the beginning of it."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Final

import click

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, segment, team_path
from gateway.cli.errors import USAGE, CliError
from gateway.cli.keys import app, last_used
from gateway.cli.signatures import argument

_KEY: Final = re.compile(
    r"sk-gw-(?P<team>[0-9A-Za-z]{1,10})(?:(?<=-[0-9A-Za-z]{10})-(?P<key>[0-9A-Za-z]{1,10})"
    r"(?:(?<=-[0-9A-Za-z]{10})-(?P<rest>[0-9A-Za-z]{0,51}))?)?"
)
"""The beginning of a key. It names its team and the key (gateway/identity/api_keys.py); the secret is not needed."""
_ID_LENGTH: Final = 10
_MAX_NAMED: Final = 10
_REST_LENGTH: Final = 51
_CHECKSUM_LENGTH: Final = 8
_MAX_LINE_CHARACTERS: Final = 65_536
_ENDED: Final[Mapping[str, str]] = MappingProxyType({"all": "true"})
"""Lists ended accounts, too."""


@app.command("find")
def find_(
    text: Annotated[
        str | None,
        argument(
            "A key's beginning, as much of it as only one key has. Without it, or with -, text is read from standard "
            "input, so that a whole key stays out of the shell's history.",
            metavar="[TEXT]",
        ),
    ] = None,
    *,
    as_json: options.AsJson = False,
) -> None:
    """Show the owner of a key, and how to revoke or rotate it. No command repeats a secret."""
    if text in (None, "-"):
        if sys.stdin.isatty():
            text = click.prompt("The key (it is not shown)", hide_input=True)
        else:
            text = sys.stdin.read(_MAX_LINE_CHARACTERS)
    match = _KEY.search(text or "")
    if match is None:
        raise CliError("no key of this gateway is in this text: one begins with sk-gw-TEAM-KEY", exit_code=USAGE)
    with AdminClient.from_environment() as client:
        team, found = _owner(client, match["team"], match["key"] or "")
    standing = _standing(match["rest"] or "", found)
    if as_json:
        output.as_json({**found, "team_name": team["name"], "this_secret": standing})
        return
    place = f"{team['name']}/{found['id']}"
    output.fields(
        {
            "team": team["name"],
            "key": found["name"],
            "id": found["id"],
            "status": output.status(found),
            "expires": found["expires_at"] or "never",
            "last used": last_used(found) or "never",
            "this secret": standing,
        }
    )
    program = options.program()
    if found["status"] != "revoked":
        click.echo(f"\nTo end it now:         {program} keys revoke {place}")
        click.echo(f"To replace its secret: {program} keys rotate {place} --now")


def _owner(client: AdminClient, team: str, key: str) -> tuple[Json, Json]:
    """Returns the only team and key whose ids begin so. Raises CliError for none, and for several."""
    path = team_path(team)
    if len(team) < _ID_LENGTH:
        path = team_path(_only("team", team, client.every("/teams", _ENDED))["id"])
    keys = f"{path}/keys"
    if len(key) < _ID_LENGTH:
        key = _only("key", key, client.every(keys, _ENDED))["id"]
    found = client.get(f"{keys}/{segment(key)}")
    return client.get(path), found


def _only(what: str, beginning: str, accounts: Iterator[Json]) -> Json:
    """Returns the only account whose id begins so. Raises CliError."""
    same = [account for account in accounts if account["id"].startswith(beginning)]
    if not same:
        raise CliError(f"no {what}'s id begins with {beginning!r}")
    if len(same) > 1:
        named = ", ".join(f"{account['id']} ({account['name']})" for account in same[:_MAX_NAMED])
        more = ", ..." if len(same) > _MAX_NAMED else ""
        raise CliError(f"{len(same)} {what}s have ids that begin so; give more of it: {named}{more}")
    return same[0]


def _standing(rest: str, key: Json) -> str:
    """Returns whether a secret works. `rest` is what follows the key's id: secret and checksum."""
    if len(rest) < _REST_LENGTH:
        return "not given in full"
    secret = rest[:-_CHECKSUM_LENGTH]
    digest = hashlib.sha256(secret.encode()).hexdigest()
    for known in key["secrets"]:
        if digest.startswith(known["sha256_prefix"]):
            return "works" if known["until"] is None else f"works until {known['until']}"
    return "does not work: it was rotated out, or is not one of this key's"
