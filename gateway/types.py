"""Names for shapes that many packages share: ASGI's, header lists, bodies, pages of a list.

ASGI: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Scope = MutableMapping[str, Any]


Message = MutableMapping[str, Any]


Receive = Callable[[], Awaitable[Message]]


Send = Callable[[Message], Awaitable[None]]


Headers = list[tuple[bytes, bytes]]


Body = bytes | bytearray
"""A request's body: what was read into its place stays there."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list; `next` is the cursor to what follows, None at the end."""

    data: tuple[T, ...]
    next: str | None
