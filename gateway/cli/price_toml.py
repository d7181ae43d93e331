"""Price rows as TOML, in the form of the configuration: [prices."model"] and the tables inside.

written(model, row, comments)   -> the text of one row; `row` has the names and values of `PriceSettings`
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_WIDTH: Final = 117


def written(model: str, row: Mapping[str, Any], comments: Sequence[str] = ()) -> str:
    """Returns a row as TOML. `comments` stand below its first line."""
    head, *rest = _table(("prices", model), row)
    return f"\n{head}\n" + "".join(map(comment, comments)) + "".join(f"{line}\n" for line in rest)


def comment(text: str) -> str:
    """Returns a text as lines of comment. TOML forbids control characters there."""
    words = "".join(one if one.isprintable() else " " for one in text)
    return "".join(f"# {line}\n" for line in textwrap.wrap(words, _WIDTH, break_long_words=False))


def _table(path: tuple[str, ...], values: Mapping[str, Any], brackets: str = "[]") -> Iterator[str]:
    yield f"{brackets[: len(brackets) // 2]}{'.'.join(map(_key, path))}{brackets[len(brackets) // 2 :]}"
    for name, value in values.items():
        if not _is_nested(value):
            yield f"{_key(name)} = {_value(value)}"
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _nested((*path, name), value)
        elif _is_nested(value):
            for one in value:
                yield from _table((*path, name), one, "[[]]")


def _nested(path: tuple[str, ...], values: Mapping[str, Any]) -> Iterator[str]:
    """A table that has only tables inside needs no line of its own."""
    lines = list(_table(path, values))
    yield from lines[1:] if values and all(isinstance(value, Mapping) for value in values.values()) else lines


def _is_nested(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: object) -> str:
    """Returns a text, a number or a list of them as TOML. A JSON string is a TOML string, but for DEL."""
    return json.dumps(value).replace("\x7f", "\\u007f")
