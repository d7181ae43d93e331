"""Bounds the size and the number of values of a body before it is parsed. Pure.

Parsing takes time in proportion to the text (the body without its attachments) and to the number of values, and
delays all other requests. 32 MB of `[],` take seconds and a gigabyte of memory; 32 MB of an image take a few
milliseconds.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.errors import GatewayError
from gateway.types import Body

_SLICE_BYTES: Final = 256 * 1024
_STARTS: Final = (b",", b"[", b"{")
"""The characters by which values are counted. Each value but the first of its array or object follows a comma."""


class BodyBounds(NamedTuple):
    """The most text, in bytes, and the most JSON values of one body."""

    max_text_bytes: int = 8 * 1024 * 1024
    max_json_values: int = 200_000


DEFAULT_BOUNDS: Final = BodyBounds()


def check_bounds(text: Body, bounds: BodyBounds) -> None:
    """Raises GatewayError `body_too_large`. `text` is a body without its attachments."""
    if len(text) > bounds.max_text_bytes:
        raise GatewayError(
            "body_too_large",
            f"Without its attachments the body may hold {bounds.max_text_bytes} bytes at most.",
            explain={"limit": bounds.max_text_bytes},
        )
    if len(text) > bounds.max_json_values and _has_more_values(text, bounds.max_json_values):
        raise GatewayError(
            "body_too_large",
            f"The body may hold {bounds.max_json_values} JSON values at most.",
            explain={"limit": bounds.max_json_values},
        )


def _has_more_values(text: Body, max_values: int) -> bool:
    """Whether there are more values. It stops as soon as that is known."""
    found = 0
    for at in range(0, len(text), _SLICE_BYTES):
        found += _count(text[at : at + _SLICE_BYTES])
        if found > max_values:
            return _has_more_outside_strings(text, max_values)
    return False


def _has_more_outside_strings(text: Body, max_values: int) -> bool:
    """The same, without counting commas and brackets inside strings."""
    found, at, inside = 0, 0, False
    while at < len(text) and found <= max_values:
        piece = bytes(text[at : at + _SLICE_BYTES])
        escapes = len(piece) - len(piece.rstrip(b"\\"))
        if escapes % 2:
            piece += text[at + len(piece) : at + len(piece) + 1]  # the character that the last backslash escapes
        at += len(piece)
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        found += _count(b"".join(parts[inside::2]))
        inside ^= len(parts) % 2 == 0
    return found > max_values


def _count(piece: Body) -> int:
    return sum(piece.count(start) for start in _STARTS)
