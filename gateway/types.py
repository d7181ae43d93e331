"""Type aliases that many packages share: ASGI types, header lists, bodies, pages of a list.

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
"""A request's body. A long body stays in the bytearray that it was read into."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. `next` is the cursor of the next page, or None at the end."""

    data: tuple[T, ...]
    next: str | None
