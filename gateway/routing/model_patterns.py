"""Model patterns: an exact id, "provider/*" or "*"; the most specific wins. For routes, prices, permissions."""

from __future__ import annotations

import re
from typing import Final

_PATTERN: Final = re.compile(r"\*|[^\s*]+/\*|[^\s*]+")


def is_pattern(text: str) -> bool:
    """Whether the text is an exact id, "provider/*" or "*" (no white space, no other star)."""
    return _PATTERN.fullmatch(text) is not None


def specificity(model: str) -> tuple[str, ...]:
    """The patterns that match a model id, the most specific first.

    "a/b/c" is matched by itself, "a/b/*", "a/*" and "*": a provider prefix may itself hold a slash.
    """
    found = [model]
    prefix = model
    while "/" in prefix:
        prefix = prefix.rsplit("/", 1)[0]
        found.append(prefix + "/*")
    found.append("*")
    return tuple(found)
