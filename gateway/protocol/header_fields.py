"""Checks of header fields on both sides of the gateway. Pure.

size_bytes(headers)             the size of the fields in an HTTP/1.1 head
is_clean(lines, line_count)     whether the only control characters are the line ends that were written on purpose
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.types import Headers

_SEPARATORS_BYTES: Final = 4  # ": " and the line end
_CONTROLS: Final = bytes((*range(9), *range(10, 32), 127))
"""RFC 9110, 5.5: tab is the only control character that a field may contain."""


def size_bytes(headers: Headers) -> int:
    """Returns the size of the fields as lines of an HTTP/1.1 head, for HTTP/2 too, so that one bound holds for both."""
    return sum(len(name) + len(value) + _SEPARATORS_BYTES for name, value in headers)


def is_clean(lines: bytes, line_count: int) -> bool:
    """Returns False if a value contains a control character, with which it could begin a line of its own."""
    return len(lines.translate(None, _CONTROLS)) == len(lines) - 2 * line_count
