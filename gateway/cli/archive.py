"""`gateway ledger archive`: moves old entries of the journal to files, by team and day.

    DIRECTORY/<team id>/2026-11-01.jsonl     the entries of a day (UTC), one per line, oldest first

A day's file is written completely, with fsync, before anything is deleted from the store. Then it is read back in
parts, and the gateway deletes from the journal the entries that have exactly the digest of a part. An interrupted
command can therefore be repeated: a file that exists is compared, and not written again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import click

from gateway.cli.client import AdminClient, Json, team_path
from gateway.cli.errors import CliError
from gateway.cli.signatures import argument, option
from gateway.protocol.wording import counted

_AT_ONCE: Final = 20_000
_PAGE: Final = "1000"
_KEPT_DAYS: Final = 30


def archive(
    directory: Annotated[Path, argument("Where the files go.")],
    *,
    team: Annotated[str | None, option("One team, by name or id; without it, all teams.")] = None,
    before: Annotated[str | None, option("The first day that stays, such as 2026-11-01 (UTC).")] = None,
) -> None:
    """Move the journal's days to files: written, verified, and only then deleted from the store.

    Without --before, the last 30 days stay.
    """
    until = _day(before)
    count = days = 0
    with AdminClient.from_environment() as client:
        owners = [client.get(team_path(team))] if team is not None else list(client.every("/teams", {"all": "true"}))
        for owner in owners:
            for name, entries in groupby(_entries(client, owner, until), key=lambda entry: str(entry["at"])[:10]):
                path = directory / str(owner["id"]) / f"{name}.jsonl"
                count += _archive_day(client, owner, path, entries)
                days += 1
    moved = f"{counted(count, 'entry', 'entries')} of {counted(days, 'day')}"
    click.echo(f"{moved} moved to {directory}, and no longer in the store")


def _day(text: str | None) -> date:
    if text is None:
        return datetime.now(UTC).date() - timedelta(days=_KEPT_DAYS)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise CliError(f"--before: {text!r} is not a day such as 2026-11-01") from None


def _entries(client: AdminClient, owner: Json, until: date) -> Iterator[Json]:
    cursor: dict[str, str] = {}
    while True:
        page = client.get(f"{team_path(owner['id'])}/journal", {"limit": _PAGE, "to": f"{until}T00:00:00Z", **cursor})
        yield from page["data"]
        if not page["next"]:
            return
        cursor = {"after": page["next"]}


def _archive_day(client: AdminClient, owner: Json, path: Path, entries: Iterator[Json]) -> int:
    first, through = next(entries), ""
    existed = path.exists()
    try:
        if not existed:
            _write(path, first, entries)
        count = 0
        with path.open("rb") as file:
            for part in _parts(file, str(first["id"])):
                count += client.post(f"{team_path(owner['id'])}/journal/archived", part)["entries"]
                through = part["through"]
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}") from None
    (last,) = deque(chain((first,), entries), maxlen=1)  # the complete day, if the file existed before
    if existed and last["id"] != through:
        raise CliError(f"{path} was there before and ends before the day's last entry: move it away, and try again")
    return count


def _write(path: Path, first: Json, entries: Iterator[Json]) -> None:
    """Writes a file that is either complete and on disk, or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as file:
        file.write(_line(first))
        file.writelines(map(_line, entries))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(entry: Json) -> bytes:
    return json.dumps(entry, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _parts(file: BinaryIO, first: str) -> Iterator[dict[str, Any]]:
    """Yields the lines of a file from an entry on, in parts."""
    lines = (line for line in file if _place(json.loads(line)["id"]) >= _place(first))
    while part := list(islice(lines, _AT_ONCE)):
        digest = hashlib.sha256(b"".join(part)).hexdigest()
        yield {"through": json.loads(part[-1])["id"], "entries": len(part), "digest": digest}


def _place(entry_id: str) -> tuple[int, int]:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)
