"""Parses JSON as leniently as SDKs do, so that an upstream's bytes fail here only if they would fail there. Pure."""

from __future__ import annotations

import json
from typing import Any, Final

import orjson


def parse_json(data: bytes) -> Any:
    """Parses a JSON value. Raises ValueError.

    The second parser accepts what clients accept and orjson refuses: lone surrogates (text cut inside an emoji), bad
    UTF-8, a byte order mark.
    """
    try:
        return orjson.loads(data)
    except ValueError:
        try:
            return json.loads(data.decode("utf-8-sig", "replace"), parse_constant=lambda _: None)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def dumps(value: Any) -> bytes:
    """Serializes a value.

    What orjson refuses (lone surrogates, integers beyond 64 bits) is written in ASCII instead.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode("ascii")


def is_json(data: bytes) -> bool:
    """Whether the bytes are JSON of any kind."""
    try:
        parse_json(data)
    except ValueError:
        return False
    return True


def parse_object(data: bytes) -> dict[str, Any] | None:
    """Parses a JSON object. Returns None for anything else, and never raises."""
    try:
        value = parse_json(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


MAX_ID_CHARACTERS: Final = 512


def id_text(value: object) -> str | None:
    """Returns an id from outside, or None if it is not printable text of a bounded length.

    A lone surrogate could not be stored or logged, and a line break or an escape would forge lines of a log.
    """
    return value if isinstance(value, str) and len(value) <= MAX_ID_CHARACTERS and value.isprintable() else None
