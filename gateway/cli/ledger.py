"""`gateway ledger`: verify the ledger, export and archive the journal.

verify [TEAM]    recomputes balances from the journal and prints each difference; exit code 1 if there is one
journal TEAM     the last movements of a team's credits
archive DIR      moves the days of the journal to files (archive.py)
export [TEAM]    the journal of a period as JSON Lines or CSV, with a progress bar on a terminal
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
from gateway.cli.errors import CliError
from gateway.cli.signatures import Group, argument, option
from gateway.reporting.csv_text import cell

app = Group(help="The ledger: verify it, export it, archive it.")
app.command()(archive)

_TEAMS_AT_ONCE: Final = "20"  # each team is verified from its first entry, and one answer should not take minutes
_ENTRIES_AT_ONCE: Final = "1000"
_COLUMNS: Final = (
    "team_id", "team", "id", "at", "type", "request_id", "key_id", "amount_usd", "balance_usd", "hold_usd", "model",
    "upstream", "outcome", "settled_by", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens",
    "note", "response_id",
)  # fmt: skip
_Team = Annotated[str | None, argument("A team's name or id; without one, all teams.")]


class Format(StrEnum):
    """The format of an export."""

    JSONL = "jsonl"
    CSV = "csv"


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
        click.echo(f"the ledger is consistent: {teams} team{'s' if teams != 1 else ''}, {entries} entries")


class Type(StrEnum):
    """The type of a journal entry."""

    GRANT = "grant"
    ADJUST = "adjust"
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
                one["note"] or one["outcome"],
            )
            for one in found
        ],
        empty="No such entry.",
    )


@app.command()
def export(
    team: _Team = None,
    *,
    since: Annotated[str | None, option("The start, ISO 8601: 2026-11-01.", "--from")] = None,
    until: Annotated[str | None, option("The end (exclusive), ISO 8601.", "--to")] = None,
    form: Annotated[Format, option("JSON Lines, or CSV with a header line.", "--format")] = Format.JSONL,
    output: Annotated[Path | None, option("A file instead of standard output.")] = None,
) -> None:
    """Write the journal of a period."""
    period = {name: value for name, value in (("from", since), ("to", until)) if value is not None}
    with AdminClient.from_environment() as client, ExitStack() as stack:
        teams = [client.get(team_path(team))] if team is not None else list(client.every("/teams", {"all": "true"}))
        write = _writer(stack.enter_context(_File(output)), form)
        console = Console(stderr=True)
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        stack.enter_context(bar)
        task = bar.add_task("no entries", total=len(teams))
        count = 0
        for number, owner in enumerate(teams):
            for entry, share in _entries(client, owner, period):
                write({"team_id": owner["id"], "team": owner["name"], **entry})
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
    """Yields a team's entries, each with the share of the period since its first entry that has been exported."""
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


class _File:
    """Standard output, or a file that is either complete or absent: it gets its name after it was written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part") if path is not None else None
        self._file: TextIO = sys.stdout

    def __enter__(self) -> TextIO:
        if self._part is not None:
            try:
                self._file = self._part.open("w", encoding="utf-8", newline="")
            except OSError as error:
                raise CliError(f"{self._path} cannot be written: {error.strerror}") from None
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._part is None or self._path is None:
            return
        self._file.close()
        if kind is None:
            self._part.replace(self._path)
        else:
            self._part.unlink(missing_ok=True)


def _writer(file: TextIO, form: Format) -> Callable[[Json], None]:
    if form is Format.JSONL:
        return lambda entry: _write_line(file, entry)
    rows = csv.DictWriter(file, _COLUMNS, extrasaction="ignore", lineterminator="\r\n")
    rows.writeheader()
    return lambda entry: _write_row(rows, entry)


def _write_line(file: TextIO, entry: Json) -> None:
    file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _write_row(rows: csv.DictWriter[str], entry: Json) -> None:
    flat = {**entry, **(entry["usage"] or {})}
    rows.writerow({name: cell(flat.get(name)) for name in _COLUMNS})
