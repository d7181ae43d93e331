"""Model patterns: an exact id, "provider/*" or "*".

The most specific one wins. Routes, prices and permissions use them.
"""

from __future__ import annotations

import re
from typing import Final

_PATTERN: Final = re.compile(r"\*|[^\s*]+/\*|[^\s*]+")


def is_pattern(text: str) -> bool:
    """Whether the text is a pattern: an exact id, "provider/*" or "*", without white space or another star."""
    return _PATTERN.fullmatch(text) is not None


def specificity(model: str) -> tuple[str, ...]:
    """Returns the patterns that match a model id, most specific first.

    "a/b/c" is matched by "a/b/c", "a/b/*", "a/*" and "*", because a provider prefix may itself contain a slash.
    """
    found = [model]
    prefix = model
    while "/" in prefix:
        prefix = prefix.rsplit("/", 1)[0]
        found.append(prefix + "/*")
    found.append("*")
    return tuple(found)
