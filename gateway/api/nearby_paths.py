"""The path that a caller meant who asked for one that does not exist. Pure."""

from __future__ import annotations

import re
from typing import Final

_SLASHES: Final = re.compile(r"/{2,}")
_VERSIONS: Final = re.compile(r"^(?:/v1)+(?=/|$)")
_ROOTS: Final = frozenset(
    {"audio", "chat", "completions", "conversations", "embeddings", "images", "key", "messages", "models"}
    | {"moderations", "rerank", "responses"}
)


def nearby_path(path: str) -> str | None:
    """Returns the path without doubled slashes, a slash at its end, or a doubled or missing /v1; None: it is none."""
    tidy = _SLASHES.sub("/", path).rstrip("/")
    rest = _VERSIONS.sub("", tidy)
    first = rest.lstrip("/").partition("/")[0]
    meant = f"/v1{rest}" if first in _ROOTS else tidy
    return meant if meant and meant != path else None


def nothing_at(method: str, path: str) -> str:
    """Returns the message for a path at which there is nothing."""
    meant = nearby_path(path)
    hint = f" Did you mean {meant}?" if meant else ""
    return f"There is nothing at {method} {path}.{hint}"
