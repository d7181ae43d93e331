"""`gateway prices import` and `gateway prices diff`: price rows from the data of a package, and where a file differs.

The data is that of the installed package; an upgrade of the package brings newer prices. Nothing is downloaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gateway.cli import output
from gateway.cli.errors import REFUSED, USAGE, CliError
from gateway.cli.prices import CONFIG, Config, app
from gateway.cli.signatures import argument, option
from gateway.protocol.moments import parse_moment

if TYPE_CHECKING:
    from gateway.cli.price_catalogue import Catalogue, Entry

_Names = Annotated[list[str] | None, argument('Providers ("openai") or models ("openai/gpt-5.2"). Without any, all.')]
_Day = Annotated[
    str | None, option("A day (UTC): the prices in force then, and later ones. Without it, today.", "--at")
]


@app.command("import")
def import_(
    names: _Names = None,
    *,
    at: _Day = None,
    file: Annotated[Path | None, option("A file to write. Without it, standard output.", "--output", "-o")] = None,
    yes: Annotated[bool, option("Replace the file if it exists.", "--yes", "-y")] = False,
) -> None:
    """Write price rows (TOML) from the data of the package genai-prices."""
    from gateway.cli import price_catalogue  # noqa: PLC0415 - only these commands need it

    catalogue = price_catalogue.load(_day(at))
    entries = catalogue.chosen(names or ())
    text = "".join(_text(catalogue, entries))
    if file is None:
        sys.stdout.write(text)
    else:
        _write(file, text, replace=yes)
    for entry in entries:
        for loss in entry.lost:
            sys.stderr.write(f"gateway: {entry.model}: {loss}\n")


@app.command()
def diff(
    names: _Names = None,
    *,
    config: Config = CONFIG,
    at: _Day = None,
    as_json: Annotated[bool, option("JSON, for scripts.", "--json")] = False,
) -> None:
    """Show which price rows of a configuration differ from that data. Exit code 1 if one does."""
    from gateway.cli import price_comparison  # noqa: PLC0415 - only this command needs it

    found = price_comparison.compare(config, _day(at), names or ())
    if as_json:
        output.as_json(found.as_json())
    else:
        columns = ("MODEL", "RATE", "FILE USD", "DATA USD")
        output.table(columns, found.differences, empty=f"No difference in {found.compared} rows.")
    for model in found.unlisted:
        sys.stderr.write(f"gateway: {model}: the data has no price for it\n")
    if found.differences:
        sys.exit(REFUSED)


def _day(text: str | None) -> date:
    if text is None:
        return datetime.now(UTC).date()
    try:
        return parse_moment(text, datetime.now(UTC)).astimezone(UTC).date()
    except ValueError as error:
        raise CliError(f"--at {error}", exit_code=USAGE) from None


def _text(catalogue: Catalogue, entries: Sequence[Entry]) -> Iterator[str]:
    from gateway.cli.price_toml import comment, written  # noqa: PLC0415 - only one command needs it

    yield comment(f"Prices of genai-prices {catalogue.version}: USD per million tokens, and USD per call.")
    for entry in entries:
        if entry.row is None:
            yield "".join(comment(f"{entry.model}: {remark}") for remark in entry.remarks)
        else:
            yield written(entry.model, entry.row, entry.remarks)


def _write(path: Path, text: str, *, replace: bool) -> None:
    try:
        with path.open("w" if replace else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise CliError(f"{path} exists: --yes replaces it", exit_code=USAGE) from None
    except OSError as error:
        raise CliError(f"{path}: cannot be written: {error.strerror}") from None
