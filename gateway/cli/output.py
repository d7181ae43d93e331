"""Output for people: tables and fields. Scripts use --json, which prints the API's own answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gateway.cli.errors import CliError

LIMIT_COLUMNS: Final = ("LIMIT", "SET TO", "LEFT", "RESETS AT")
_ANY_WIDTH: Final = 10_000
_PIPE_WIDTH: Final = 200  # without a terminal, nothing is cut


def as_json(value: Any) -> None:
    """Prints the value as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def json_line(value: Any) -> str:
    """Returns the value as one line of JSON Lines."""
    return json.dumps(value, ensure_ascii=False)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Prints a table with numbers aligned to the right. `empty` is printed if there are no rows."""
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
    console = _console()
    wanted = console.measure(drawn, options=console.options.update(max_width=_ANY_WIDTH)).maximum
    if "ID" in headings and wanted > console.width:
        _blocks(console, headings, cells)
    else:
        console.print(drawn)


def _blocks(console: Console, headings: Sequence[str], cells: Sequence[Sequence[Text]]) -> None:
    """Prints rows that are wider than the terminal: each one's id in a line of its own, the rest wrapped below it."""
    place = headings.index("ID")
    for row in cells:
        console.print(Text(row[place].plain, "bold"), soft_wrap=True)
        rest = [
            f"{heading.lower()} {cell.plain}"
            for heading, cell in zip(headings, row, strict=True)
            if heading != "ID" and cell.plain != "-"
        ]
        console.print(Padding(Text(", ".join(rest)), (0, 0, 0, 4)))


def fields(values: Mapping[str, object]) -> None:
    """Prints names and values, one per line. Lines are not wrapped, because people copy keys from them."""
    console, width = _console(), max(map(len, values), default=0)
    for name, value in values.items():
        console.print(Text.assemble((f"{name:<{width}}  ", "bold"), _cell(value)), soft_wrap=True)


def rotated(answer: Mapping[str, Any], ending: Sequence[Mapping[str, Any]]) -> None:
    """Prints a new secret, and until when the earlier ones work. Raises CliError if it cannot be shown again."""
    if answer["key"] is None:
        raise CliError(
            "this rotation was done before, and its secret has been replaced since: use another --idempotency-key"
        )
    fields({name: answer[name] for name in ("key", "id", "name")})
    for secret in ending:
        sys.stdout.write(f"{secret['sha256_prefix']} works until {secret['until']}\n")
    sys.stdout.write("\nKeep it now: it is not shown again.\n")


def status(account: Mapping[str, Any]) -> str:
    """Returns the status of a team or key for people. One that is active may have expired, or be paused."""
    if account["status"] != "active":
        return str(account["status"])
    return "expired" if account["expired"] else "paused" if account.get("paused") else "active"


def require_all_workers(answer: Mapping[str, Any]) -> None:
    """Raises CliError if workers have not applied an order yet, and names them."""
    late = answer.get("disobedient") or ()  # a gateway of an earlier version does not wait
    if late:
        lines = [
            f"worker {one['pid']} on {one['host']}: "
            + (one["problem"] or "last heard of {} s ago".format(one["silent_s"]))
            for one in late
        ]
        raise CliError("the order was stored, but not every worker has applied it yet:", *lines)


def bill(found: Mapping[str, Any]) -> None:
    """Prints how a cost came about, line by line, and what the price does not cover."""
    lines = found["lines"]
    columns = ("name", "quantity", "unit", "rate_usd", "amount_usd")
    rows = [tuple(line[name] for name in columns) for line in lines]
    table(("COST OF", "QUANTITY", "UNIT", "RATE USD", "AMOUNT USD"), rows, empty="nothing is charged")
    notes = {"price": found["price"], **found["facts"]}
    notes |= {name: ", ".join(found[name]) for name in ("unpriced", "contradictions") if found[name]}
    notes |= {"charged before": found["less_usd"]} if found["less_usd"] != "0" else {}
    fields({name: value for name, value in notes.items() if value})


def limit_rows(limits: Mapping[str, Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """Returns each limit and what remains of it, as LIMIT_COLUMNS."""
    return [
        (name, _value(limit), limit.get("remaining", limit.get("remaining_usd")), limit.get("resets_at"))
        for name, limit in limits.items()
    ]


def limits_table(limits: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints each limit and what remains of it."""
    columns: tuple[str, ...] = LIMIT_COLUMNS
    rows = limit_rows(limits)
    for_a_while = [limit.get("override") for limit in limits.values()]
    if any(for_a_while):
        columns = (*columns, "UNTIL", "THEN")
        ends = [(one["until"], _or_none(one["otherwise"])) if one else (None, None) for one in for_a_while]
        rows = [(*row, *end) for row, end in zip(rows, ends, strict=True)]
    table(columns, rows, empty="no limits")


def limits_line(limits: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns all limits in one cell: "rpm 60, concurrency 5"."""
    return ", ".join(
        f"{name} {_value(limit)}" + (f" until {limit['override']['until']}" if limit.get("override") else "")
        for name, limit in limits.items()
    )


def _value(limit: Mapping[str, Any]) -> object:
    return _or_none(limit.get("limit", limit.get("limit_usd")))


def _or_none(value: object) -> object:
    return "none" if value is None else value


def permitted_line(names: Sequence[str]) -> str:
    """Returns the permitted models, or operations, in one cell."""
    return ", ".join(names) or "all"


def periods_line(team: Mapping[str, Any]) -> str:
    """Returns where a team's periods begin: "Asia/Kolkata, from 2026-11-15"."""
    anchor = team.get("anchor")
    return f"{team.get('timezone') or 'UTC'}{f', from {anchor}' if anchor else ''}"


def balance_fields(balance: Mapping[str, Any]) -> dict[str, str]:
    """Returns a balance's fields. `available` comes first, because it is what people look for."""
    order = ("available", "held", "spent", "granted")
    fields = {f"{name} USD": balance[f"{name}_usd"] for name in order}
    lots = balance.get("expiring") or ()  # a gateway of an earlier version knows none
    return fields | {f"of it until {lot['expires_at']}": lot["available_usd"] for lot in lots}


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def _cell(value: object) -> Text:
    # a Text, so that brackets in a name are not read as markup
    return Text("-" if value is None or value == "" else str(value))


def _is_number(text: str) -> bool:
    return text.lstrip("-").replace(".", "", 1).isdigit() or text == "-"
