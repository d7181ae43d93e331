"""Rows as CSV without formulas. Pure.

Spreadsheets run a cell that begins with = + - @, a tab or a line break as a formula, and names come from callers. Such
text therefore gets an apostrophe in front. Numbers stay numbers, also negative ones.

    cell(value)          a value as a cell
    flat(row)            a JSON object as {column: cell}; members of objects are named a.b
    lines(rows)          the text, with a line of headings; columns are in the order of their first occurrence
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_DANGEROUS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def cell(value: Any) -> str:
    """Returns a value as a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | dict):
        return cell(json.dumps(value, ensure_ascii=False)) if value else ""
    text = str(value)
    return f"'{text}" if text.startswith(_DANGEROUS) and not _NUMBER.fullmatch(text) else text


def flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns an object as {column: cell}."""
    found: dict[str, str] = {}
    for name, value in row.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[cell(f"{prefix}{name}")] = cell(value)
    return found


def lines(rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = ()) -> str:
    """Returns the rows as CSV. `columns` come first, whether a row has them or not."""
    cells = [flat(row) for row in rows]
    headings = dict.fromkeys((*columns, *(name for row in cells for name in row)))
    out = io.StringIO()
    # RFC 4180; with "\n" alone a carriage return in a cell would not be quoted, and would begin a row of its own
    writer = csv.DictWriter(out, list(headings), restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(cells)
    return out.getvalue()
