"""`gateway ledger`: verify the ledger, export and archive the journal.

verify [TEAM]    recomputes balances from the journal and prints each difference; exit code 1 if there is one
journal TEAM     the last movements of a team's credits
archive DIR      moves the days of the journal to files (archive.py)
export [TEAM]    the journal of a period as JSON Lines, CSV or Parquet, with a progress bar on a terminal
"""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.cli import options, output
from gateway.cli.archive import archive
from gateway.cli.client import AdminClient, Json, team_path
from gateway.cli.errors import USAGE, CliError
from gateway.cli.files import complete, parquet_writer
from gateway.cli.signatures import Group, argument, option
from gateway.protocol.wording import counted
from gateway.reporting.csv_text import cell

app = Group(help="The ledger: verify it, export it, archive it.")
app.command()(archive)

_TEAMS_AT_ONCE: Final = "20"  # each team is verified from its first entry, and one answer must not take minutes
_ENTRIES_AT_ONCE: Final = "1000"
_COLUMNS: Final = (
    "team_id", "team", "id", "at", "type", "request_id", "key_id", "amount_usd", "balance_usd", "hold_usd", "model",
    "upstream", "outcome", "settled_by", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens",
    "note", "response_id", "expires_at",
)  # fmt: skip
_Team = Annotated[str | None, argument("A team's name or id; without one, all teams.")]


class Format(StrEnum):
    """The format of an export."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


@app.command()
def verify(
    team: _Team = None, *, as_json: Annotated[bool, option("JSON Lines, one per team.", "--json")] = False
) -> None:
    """Verify that balances agree with the journal. The exit code is 1 if they do not."""
    wrong = teams = entries = 0
    with AdminClient.from_environment() as client:
        for found in _verifications(client, team):
            teams += 1
            entries += found["entries"]
            wrong += not found["ok"]
            if as_json:
                sys.stdout.write(json.dumps(found) + "\n")
            elif not found["ok"]:
                _print_differences(found)
    if wrong:
        raise CliError(f"the books of {wrong} of {teams} teams do not agree")
    if not as_json:
        click.echo(f"the ledger is consistent: {counted(teams, 'team')}, {counted(entries, 'entry', 'entries')}")


class Type(StrEnum):
    """The type of a journal entry."""

    GRANT = "grant"
    ADJUST = "adjust"
    LAPSE = "lapse"
    SETTLE = "settle"
    VOID = "void"
    EXPIRE = "expire"
    ATTEMPT = "attempt"


@app.command()
def journal(
    team: options.TeamArgument,
    *,
    type_: Annotated[Type | None, option("Entries of one type.", "--type")] = None,
    limit: Annotated[int, option("How many.", minimum=1, maximum=1000)] = 20,
    as_json: options.AsJson = False,
) -> None:
    """Show the last movements of a team's credits, newest first."""
    asked = options.given(type=type_.value if type_ else None, order="newest", limit=str(limit))
    with AdminClient.from_environment() as client:
        found = list(itertools.islice(client.every(f"{team_path(team)}/journal", asked), limit))
    if as_json:
        output.as_json(found)
        return
    output.table(
        ("AT", "TYPE", "AMOUNT USD", "BALANCE USD", "REQUEST", "MODEL", "NOTE"),
        [
            (
                *(one[name] for name in ("at", "type", "amount_usd", "balance_usd", "request_id", "model")),
                _note(one),
            )
            for one in found
        ],
        empty="No such entry.",
    )


def _note(entry: Json) -> str | None:
    """What an entry is about. A gateway of an earlier version says nothing of an expiry."""
    expires_at = entry.get("expires_at")
    expiry = f"{'expired' if entry['type'] == Type.LAPSE else 'until'} {expires_at}" if expires_at else None
    return ", ".join(filter(None, (entry["note"] or entry["outcome"], expiry))) or None


@app.command()
def export(
    team: _Team = None,
    *,
    since: Annotated[str | None, option("The start, ISO 8601: 2026-11-01.", "--from")] = None,
    until: Annotated[str | None, option("The end (exclusive), ISO 8601.", "--to")] = None,
    form: Annotated[
        Format, option("JSON Lines, CSV with a header line, or Parquet, which needs --output.", "--format")
    ] = Format.JSONL,
    output: Annotated[Path | None, option("A file instead of standard output.")] = None,
) -> None:
    """Write the journal of a period."""
    period = {name: value for name, value in (("from", since), ("to", until)) if value is not None}
    if form is Format.PARQUET and output is None:
        raise CliError("a Parquet file needs a name: --output FILE", exit_code=USAGE)
    write_rows = _writer(form)
    with AdminClient.from_environment() as client, ExitStack() as stack:
        teams = [client.get(team_path(team))] if team is not None else list(client.every("/teams", {"all": "true"}))
        file = stack.enter_context(complete(output)) if output is not None else None
        console = Console(stderr=True)
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        stack.enter_context(bar)
        write_rows(file, _rows(client, teams, period, bar))


def _rows(client: AdminClient, teams: list[Json], period: Mapping[str, str], bar: Progress) -> Iterator[Json]:
    """Yields the entries of teams, and shows how many there have been."""
    task = bar.add_task("no entries", total=len(teams))
    count = 0
    for number, owner in enumerate(teams):
        for entry, share in _entries(client, owner, period):
            yield {"team_id": owner["id"], "team": owner["name"], **entry}
            count += 1
            bar.update(task, completed=number + share, description=f"{count} entries")
        bar.update(task, completed=number + 1)


def _verifications(client: AdminClient, team: str | None) -> Iterator[Json]:
    if team is not None:
        client.get(team_path(team))  # an unknown team is reported with similar names
        yield from client.get("/ledger/verify", {"team": team})["data"]
        return
    cursor: dict[str, str] = {}
    while True:
        page = client.get("/ledger/verify", {"limit": _TEAMS_AT_ONCE, **cursor})
        yield from page["data"]
        if not page["next"]:
            return
        cursor = {"after": page["next"]}


def _print_differences(found: Json) -> None:
    click.echo(f"{found['team_name']} ({found['team_id']}), {found['entries']} entries:")
    rows = [(one["name"], one["expected"], one["found"], one["entry_id"]) for one in found["differences"]]
    output.table(("DIFFERENCE", "EXPECTED", "FOUND", "ENTRY"), rows, empty="")


def _entries(client: AdminClient, team: Json, period: Mapping[str, str]) -> Iterator[tuple[Json, float]]:
    """Yields a team's entries, each with the exported share of the period since the first entry."""
    first_s: float | None = None
    now_s = datetime.now(UTC).timestamp()
    cursor: dict[str, str] = {}
    while True:
        page = client.get(f"{team_path(team['id'])}/journal", {"limit": _ENTRIES_AT_ONCE, **period, **cursor})
        for entry in page["data"]:
            at_s = datetime.fromisoformat(entry["at"]).timestamp()
            first_s = at_s if first_s is None else first_s
            yield entry, min(1.0, (at_s - first_s) / max(1.0, now_s - first_s))
        if not page["next"]:
            return
        cursor = {"after": page["next"]}


def _writer(form: Format) -> Callable[[Path | None, Iterator[Json]], None]:
    """Returns what writes entries to a file, or to standard output."""
    if form is Format.PARQUET:
        parquet = parquet_writer()
        return lambda path, entries: parquet.write(path or Path(), _COLUMNS, map(_flat, entries))
    write = _write_lines if form is Format.JSONL else _write_csv
    return lambda path, entries: _write_text(path, write, entries)


def _write_text(path: Path | None, write: Callable[[TextIO, Iterator[Json]], None], entries: Iterator[Json]) -> None:
    if path is None:
        write(sys.stdout, entries)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        write(file, entries)


def _write_lines(file: TextIO, entries: Iterator[Json]) -> None:
    file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def _write_csv(file: TextIO, entries: Iterator[Json]) -> None:
    rows = csv.DictWriter(file, _COLUMNS, lineterminator="\r\n")
    rows.writeheader()
    for entry in map(_flat, entries):
        rows.writerow({name: cell(entry.get(name)) for name in _COLUMNS})


def _flat(entry: Json) -> Json:
    return {**entry, **(entry["usage"] or {})}
