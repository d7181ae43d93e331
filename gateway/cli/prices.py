"""`gateway prices`: how a usage becomes a cost, and price rows from a public catalogue. All of it is offline.

explain           reads a configuration and a usage, and prints each line of the cost
import, diff      are in price_import.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final

from gateway.cli.errors import USAGE, CliError
from gateway.cli.signatures import Group, argument, option

app = Group(help="Prices: how a cost comes about, and rows from a public catalogue.")

Config = Annotated[Path, option("The configuration.", "--config", "-c", envvar="GATEWAY_CONFIG")]
CONFIG: Final = Path("gateway.toml")


@app.command()
def explain(
    model: Annotated[str, argument("A model as a request names it: an alias or a variant will do.")],
    *,
    config: Config = CONFIG,
    dialect: Annotated[
        str | None,
        option("How the usage is read: responses, chat, messages ... Without it, by the names of its fields."),
    ] = None,
    at: Annotated[
        str | None, option("When the answer ended: ISO 8601, UTC without an offset. Without it, now.")
    ] = None,
    request: Annotated[
        Path | None, option("A file with the request's body, for a tier that only the request names.")
    ] = None,
    as_json: Annotated[bool, option("JSON, for scripts.", "--json")] = False,
) -> None:
    """Show line by line what a usage costs. Standard input has a usage object, or a whole answer, as JSON."""
    from gateway.cli import output, price_explain  # noqa: PLC0415 - the settings take long to import
    from gateway.proxy.price_explain import PriceQuestion  # noqa: PLC0415 - the same

    found = price_explain.explain(
        PriceQuestion(
            model,
            price_explain.read_object(sys.stdin.read(), "standard input"),
            dialect,
            price_explain.moment_ms(at),
            {} if request is None else price_explain.read_object(_text_of(request), str(request)),
        ),
        config,
    )
    if as_json:
        output.as_json(found)
        return
    output.bill({**found, "facts": {**_notes(found), **found["facts"]}})


def _notes(found: dict[str, Any]) -> dict[str, Any]:
    """Returns the notes below the lines, in addition to those that `requests show` prints."""
    shown = ("cost_usd", "model", "row", "in_force_from", "dialect", "at", "note")
    return {name.removesuffix("_usd"): found[name] for name in shown if found[name]}


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{path}: cannot be read: {error}", exit_code=USAGE) from None
