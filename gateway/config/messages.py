"""Messages about invalid values, in place of pydantic's, which mention its types and patterns. Pure.

message_of(detail)       the message for one of pydantic's errors
settings_at(model, ...)  the names that a table may have
hint(name, names)        the name that was probably meant
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel

from gateway.protocol.wording import counted

_MESSAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "missing": "is missing",
        "extra_forbidden": "there is no such setting",
        "int_type": "must be a whole number",
        "int_parsing": "must be a whole number",
        "int_parsing_size": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_type": "must be a number",
        "float_parsing": "must be a number",
        "finite_number": "must be a finite number",
        "bool_type": "must be true or false",
        "bool_parsing": "must be true or false",
        "string_type": "must be a text in quotes",
        "path_type": "must be a path in quotes",
        "greater_than_equal": "must be at least {ge}",
        "greater_than": "must be over {gt}",
        "less_than_equal": "must be at most {le}",
        "less_than": "must be under {lt}",
        "string_too_short": "must have at least {min_length:character}",
        "string_too_long": "must have at most {max_length:character}",
        "too_short": "needs at least {min_length:entry/entries}",
        "too_long": "may have at most {max_length:entry/entries}",
        "literal_error": "must be {expected}",
        "enum": "must be {expected}",
        "tuple_type": "must be a list in brackets",
        "list_type": "must be a list in brackets",
        "dict_type": "must be a table",
        "mapping_type": "must be a table",
        "model_type": "must be a table",
        "model_attributes_type": "must be a table",
        "timezone_aware": "must name a time zone, such as 2026-11-01T06:00:00Z",
        "datetime_from_date_parsing": "must be a date or a time in ISO 8601",
        "datetime_parsing": "must be a date or a time in ISO 8601",
        "datetime_type": "must be a date or a time in ISO 8601",
        "date_type": "must be a date, such as 2026-11-15",
        "date_parsing": "must be a date, such as 2026-11-15",
        "date_from_datetime_parsing": "must be a date, such as 2026-11-15",
        "date_from_datetime_inexact": "must be a date without a time, such as 2026-11-15",
    }
)
_DEFAULT_MESSAGE: Final = "is not valid here"
_MIN_SIMILARITY: Final = 0.6


class _Number(int):
    """A number that a message may count: `{min_length:entry/entries}`, `{min_length:character}`."""

    def __format__(self, nouns: str) -> str:
        return counted(self, *nouns.split("/")) if nouns else str(int(self))


def message_of(detail: Mapping[str, Any]) -> str:
    """Returns the message for one of pydantic's errors. Messages of our own validators are kept."""
    kind = str(detail["type"])
    if kind in ("value_error", "assertion_error"):
        return str(detail["msg"]).partition(", ")[2]
    context = {
        name: _Number(value) if isinstance(value, int) else str(value).replace("'", '"')
        for name, value in (detail.get("ctx") or {}).items()
    }
    try:
        return _MESSAGES.get(kind, _DEFAULT_MESSAGE).format_map(context)
    except KeyError:
        return _DEFAULT_MESSAGE


def settings_at(annotation: Any, place: Sequence[str | int]) -> tuple[str, ...]:
    """Returns the names that the table at a place may have, if it is one with fixed names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = {info.alias or name: info.annotation for name, info in annotation.model_fields.items()}
        if not place:
            return tuple(fields)
        return settings_at(fields[str(place[0])], place[1:]) if place[0] in fields else ()
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (dict, tuple):
        return settings_at(arguments[1 if origin is dict else 0], place[1:]) if place else ()
    return next((names for each in arguments if (names := settings_at(each, place))), ())


def hint(name: str, names: Iterable[str]) -> str:
    """Returns the name that was probably meant, as the end of a message, or ""."""
    near = difflib.get_close_matches(name.lower(), list(names), n=1, cutoff=_MIN_SIMILARITY)
    return f"; did you mean {near[0]!r}?" if near else ""
