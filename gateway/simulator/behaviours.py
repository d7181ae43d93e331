"""Behaviours by model name: the rows of the package's table, as data.

`sim/<row>[-<parameter>][+<row>...]` -> Behaviour. A name that is no row is an ordinary model; a row
whose parameter is missing or out of its range is an error, because it is a typing mistake in a test.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

PREFIX: Final = "sim/"


class BadModel(ValueError):
    """A behaviour's parameter is missing or out of range; the text says which."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How an answer differs from that of a correct provider. The defaults are correct."""

    token_delay_ms: int = 0
    stall_head: bool = False
    stall_after: int | None = None
    cut_after: int | None = None
    end_after: int | None = None
    error_status: int | None = None
    canned: str = ""
    newline: bytes = b"\n"
    comments: bool = False
    done: bool = True
    after_done: bool = False
    error_event: bool = False
    error_first: bool = False
    refuses_options: bool = False
    extension: bool = False
    ending: str = "completed"
    usage: bool = True
    cached: bool = False
    cost: bool = False
    tokens: int | None = None
    big_kib: int | None = None
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One behaviour: the field that it sets, to `value` or to the parameter within `bounds`."""

    name: str
    field: str
    value: Any = True
    bounds: tuple[int, int] | None = None
    example: int = 0

    @property
    def model(self) -> str:
        """A model name that shows this behaviour, e.g. `sim/slow-20`."""
        return f"{PREFIX}{self.name}" + (f"-{self.example}" if self.bounds else "")


_EVENTS: Final = (0, 1_000_000)

ROWS: Final[tuple[Row, ...]] = (
    Row("slow", "token_delay_ms", bounds=(0, 60_000), example=20),
    Row("stall", "stall_after", bounds=_EVENTS, example=5),
    Row("stall-head", "stall_head"),
    Row("cut", "cut_after", bounds=_EVENTS, example=5),
    Row("end", "end_after", bounds=_EVENTS, example=5),
    Row("error", "error_status", bounds=(400, 599), example=429),
    Row("error-event", "error_event"),
    Row("error-first", "error_first"),
    Row("no-stream-options", "refuses_options"),
    Row("error-200", "canned", "error"),
    Row("html", "canned", "html"),
    Row("bad-json", "canned", "bad-json"),
    Row("failed", "ending", "failed"),
    Row("incomplete", "ending", "incomplete"),
    Row("no-usage", "usage", value=False),
    Row("cached", "cached"),
    Row("cost", "cost"),
    Row("tokens", "tokens", bounds=(1, 1_000_000), example=100),
    Row("big", "big_kib", bounds=(1, 16_384), example=64),
    Row("reasoner", "reasoning"),
    Row("extension", "extension"),
    Row("crlf", "newline", b"\r\n"),
    Row("cr", "newline", b"\r"),
    Row("comments", "comments"),
    Row("no-done", "done", value=False),
    Row("after-done", "after_done"),
)
_BY_NAME: Final[Mapping[str, Row]] = {row.name: row for row in ROWS}
_PARAMETER: Final = re.compile(r"([a-z][a-z-]*?)(?:-([^-]*))?", re.ASCII)
_PLAIN: Final = Behaviour()


def behaviour_of(model: str) -> Behaviour:
    """The behaviour that a model name chooses. Raises `BadModel` for a bad parameter."""
    if not model.startswith(PREFIX):
        return _PLAIN
    changes: dict[str, Any] = {}
    for part in model.removeprefix(PREFIX).split("+"):
        changes.update(_changes(part))
    return dataclasses.replace(_PLAIN, **changes) if changes else _PLAIN


def _changes(part: str) -> dict[str, Any]:
    row = _BY_NAME.get(part)
    if row is not None and row.bounds is None:
        return {row.field: row.value}
    if part.startswith("reasoner"):
        return {"reasoning": True}
    match = _PARAMETER.fullmatch(part)
    row = _BY_NAME.get(match[1]) if match else None
    if match is None or row is None or row.bounds is None:
        return {}
    low, high = row.bounds
    text = match[2] or ""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(high)) and low <= int(text) <= high):
        msg = f"{PREFIX}{row.name}-<n> takes a whole number from {low} to {high}, as in {row.model}"
        raise BadModel(msg)
    return {row.field: int(text)}
