"""`gateway keys find`: whose a key is, from its text or the beginning of it, for one that has leaked."""

from __future__ import annotations

import hashlib
import re
import sys
from typing import Annotated, Final

import click

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, segment, team_path
from gateway.cli.errors import USAGE, CliError
from gateway.cli.keys import app, last_used
from gateway.cli.signatures import argument

_KEY: Final = re.compile(r"sk-gw-(?P<team>[0-9A-Za-z]{10})-(?P<key>[0-9A-Za-z]{10})(?:-(?P<rest>[0-9A-Za-z]{0,51}))?")
"""As much of a key as names it (gateway/identity/api_keys.py): its team and itself. The secret is not needed."""
_REST_LENGTH: Final = 51
_CHECKSUM_LENGTH: Final = 8
_LONGEST_LINE: Final = 65_536


@app.command("find")
def find_(
    text: Annotated[
        str | None,
        argument(
            "A key's beginning, sk-gw-TEAM-KEY. Without it, text is read from standard input, so that a whole key "
            "stays out of the shell's history.",
            metavar="[TEXT]",
        ),
    ] = None,
    *,
    as_json: options.AsJson = False,
) -> None:
    """Show whose a key is, and how to revoke or rotate it. No command repeats a secret."""
    if text is None:
        if sys.stdin.isatty():
            text = click.prompt("The key (it is not shown)", hide_input=True)
        else:
            text = sys.stdin.read(_LONGEST_LINE)
    match = _KEY.search(text or "")
    if match is None:
        raise CliError("no key of this gateway is in this text: one begins with sk-gw-TEAM-KEY", exit_code=USAGE)
    with AdminClient.from_environment() as client:
        path = f"{team_path(match['team'])}"
        found = client.get(f"{path}/keys/{segment(match['key'])}")
        team = client.get(path)
    if as_json:
        output.as_json(found)
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
            "this secret": _standing(match["rest"] or "", found),
        }
    )
    program = options.program()
    if found["status"] != "revoked":
        click.echo(f"\nTo end it now:         {program} keys revoke {place}")
        click.echo(f"To replace its secret: {program} keys rotate {place} --now")


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
