"""What people see: tables and fields. Scripts take --json, which is the API's own answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH: Final = 200  # where there is no terminal, nothing is cut


def as_json(value: Any) -> None:
    """The value as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def json_line(value: Any) -> str:
    """The value as one line of JSON Lines."""
    return json.dumps(value, ensure_ascii=False)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table; numbers stand on the right. `empty`: what to say when there is no row."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        sys.stdout.write(empty + "\n")
        return
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        right = all(_is_number(row[index].plain) for row in cells)
        drawn.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*row)
    _console().print(drawn)


def fields(values: Mapping[str, object]) -> None:
    """Names and values, one line each, never folded: a key is longer than many terminals are wide, and gets copied."""
    console, width = _console(), max(map(len, values), default=0)
    for name, value in values.items():
        console.print(Text.assemble((f"{name:<{width}}  ", "bold"), _cell(value)), soft_wrap=True)


def limits_table(limits: Mapping[str, Mapping[str, Any]]) -> None:
    """Each limit with what is left of it, as it is enforced."""
    rows = [
        (
            name,
            limit.get("limit", limit.get("limit_usd")),
            limit.get("remaining", limit.get("remaining_usd")),
            limit.get("resets_at"),
        )
        for name, limit in limits.items()
    ]
    table(("LIMIT", "SET TO", "LEFT", "RESETS AT"), rows, empty="no limits")


def limits_line(limits: Mapping[str, Mapping[str, Any]]) -> str:
    """All limits in a cell: "rpm 60, concurrency 5"."""
    return ", ".join(f"{name} {limit.get('limit', limit.get('limit_usd'))}" for name, limit in limits.items())


def models_line(models: Sequence[str]) -> str:
    """Allowed models in a cell."""
    return ", ".join(models) or "all"


def balance_fields(balance: Mapping[str, str]) -> dict[str, str]:
    """A balance's fields: available first, since that is what one wants to know."""
    order = ("available", "held", "spent", "granted")
    return {f"{name} USD": balance[f"{name}_usd"] for name in order}


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def _cell(value: object) -> Text:
    return Text("-" if value is None or value == "" else str(value))  # Text: a name with brackets is no markup


def _is_number(text: str) -> bool:
    return text.lstrip("-").replace(".", "", 1).isdigit() or text == "-"
