"""The commands of `gateway keys` that change a key: its secrets, status, label, expiry, models and limits.

KEY is team/key, by id or label, or the id of a key.
"""

from __future__ import annotations

from typing import Annotated

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json
from gateway.cli.keys import KeyArgument, app, find_key
from gateway.cli.limits import LimitArguments, NamesArgument, Until, changes_of, ended
from gateway.cli.signatures import argument


@app.command()
def rotate(
    key: KeyArgument,
    *,
    overlap: options.Overlap = "24h",
    now: options.EndNow = False,
    yes: options.Yes = False,
    idempotency_key: options.IdempotencyKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Give a key a new secret. Its id, limits and spend stay the same. The new text is not shown again."""
    overlap_s = 0 if now else options.seconds(overlap)
    with AdminClient.from_environment() as client:
        found = find_key(client, key)
        if overlap_s == 0:
            options.confirm(f"End every secret that {found['name']!r} has now?", yes=yes)
        rotated = client.post(f"{_path(found)}/rotate", {"overlap_s": overlap_s}, idempotency_key=idempotency_key)
    if as_json:
        output.as_json(rotated)
        return
    output.rotated(rotated, [secret for secret in rotated["secrets"] if secret["until"]])


@app.command()
def revoke(key: KeyArgument, *, yes: options.Yes = False, as_json: options.AsJson = False) -> None:
    """Revoke a key permanently. Its next request is refused."""
    with AdminClient.from_environment() as client:
        found = find_key(client, key)
        options.confirm(f"Revoke {found['name']!r} ({found['id']}) for ever?", yes=yes)
        _shown(client.patch(_path(found), {"status": "revoked"}), as_json=as_json)


@app.command()
def delete(key: KeyArgument, *, yes: options.Yes = False, as_json: options.AsJson = False) -> None:
    """Delete a key for good. Its next request is refused; the journal and the audit log keep what it did."""
    with AdminClient.from_environment() as client:
        found = find_key(client, key)
        options.confirm(f"Delete {found['name']!r} ({found['id']}) for ever?", yes=yes)
        _shown(client.delete(_path(found)), as_json=as_json)


@app.command()
def disable(key: KeyArgument, *, as_json: options.AsJson = False) -> None:
    """Refuse a key's requests until it is enabled."""
    _change(key, {"status": "disabled"}, as_json=as_json)


@app.command()
def enable(key: KeyArgument, *, as_json: options.AsJson = False) -> None:
    """Enable a disabled key."""
    _change(key, {"status": "active"}, as_json=as_json)


@app.command()
def label(
    key: KeyArgument, name: Annotated[str, argument("The new label.")], *, as_json: options.AsJson = False
) -> None:
    """Change a key's label."""
    _change(key, {"name": name}, as_json=as_json)


@app.command()
def expire(
    key: KeyArgument,
    at: Annotated[str, argument('A day or a time, such as 2027-01-31, 2027-01-31T06:00:00Z or tomorrow; or "never".')],
    *,
    as_json: options.AsJson = False,
) -> None:
    """Set the time at which a key stops working."""
    _change(key, {"expires_at": None if at == "never" else at}, as_json=as_json)


@app.command()
def allow(
    key: KeyArgument,
    models: Annotated[str, argument('Exact ids or "provider/*", separated by commas; "*" for all.')],
    *,
    as_json: options.AsJson = False,
) -> None:
    """Set the models that a key may use."""
    _change(key, {"models": options.listed(models)}, as_json=as_json)


@app.command()
def operations(
    key: KeyArgument,
    names: Annotated[str, argument('Such as "chat.completions,images.*", separated by commas; "*" for all.')],
    *,
    as_json: options.AsJson = False,
) -> None:
    """Set the operations that a key may use."""
    _change(key, {"operations": options.listed(names)}, as_json=as_json)


@app.command()
def limits(key: KeyArgument, changes: LimitArguments, *, until: Until = None, as_json: options.AsJson = False) -> None:
    """Set a key's limits, such as rpm=60 budget_usd_day=5; NAME=none removes one."""
    _change(key, changes_of(changes, until), as_json=as_json)


@app.command()
def restore_limits(key: KeyArgument, names: NamesArgument = None, *, as_json: options.AsJson = False) -> None:
    """End overrides of a key's limits now, so that its former limits apply again."""
    with AdminClient.from_environment() as client:
        found = find_key(client, key)
        _shown(client.patch(_path(found), ended(found, names)), as_json=as_json)


@app.command()
def release(
    key: KeyArgument,
    fields: Annotated[list[str], argument("As `keys show` names them, such as status or limits.rpm.")],
    *,
    as_json: options.AsJson = False,
) -> None:
    """Let the admin keys of a key's team change restrictions that operators set on it."""
    _change(key, {"release": fields}, as_json=as_json)


def _change(key: str, changes: Json, *, as_json: bool) -> None:
    with AdminClient.from_environment() as client:
        _shown(client.patch(_path(find_key(client, key)), changes), as_json=as_json)


def _path(key: Json) -> str:
    return f"/teams/{key['team_id']}/keys/{key['id']}"


def _shown(key: Json, *, as_json: bool) -> None:
    if as_json:
        output.as_json(key)
        return
    output.fields(
        {
            "key": key["name"],
            "id": key["id"],
            "status": key["status"],
            "expires": key["expires_at"] or "never",
            "limits": output.limits_line(key["limits"]) or "none",
        }
    )
