"""Finds the path that a caller of an unknown path probably meant. Pure."""

from __future__ import annotations

import re
from typing import Final

_SLASHES: Final = re.compile(r"/{2,}")
_VERSIONS: Final = re.compile(r"^(?:/v1)+(?=/|$)")
_ROOTS: Final = frozenset(
    {"audio", "chat", "completions", "conversations", "embeddings", "images", "key", "messages", "models"}
    | {"moderations", "rerank", "responses"}
)
"""The first part of the paths below /v1."""


def tidied(path: str) -> tuple[str, str]:
    """Returns a path without doubled slashes and a slash at its end, and the same without any /v1 at its front."""
    tidy = _SLASHES.sub("/", path).rstrip("/")
    return tidy, _VERSIONS.sub("", tidy)


def nearby_path(path: str) -> str | None:
    """Returns the path without doubled slashes, a slash at its end, or a doubled or missing /v1; None: it is none."""
    tidy, rest = tidied(path)
    first = rest.lstrip("/").partition("/")[0]
    meant = f"/v1{rest}" if first in _ROOTS else tidy
    return meant if meant and meant != path else None
