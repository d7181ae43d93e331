"""Compares names of models, which requests, answers and configurations spell differently. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_DATE: Final = re.compile(r"[-@](?:20\d\d-?\d\d-?\d\d)(?=\Z|:)")


def folded(name: str) -> str:
    """Returns the form in which names are compared.

    White space around a name is removed, ASCII letters are in lower case, and the rest is in Unicode's compatibility
    form (NFKC). The store's scripts change the case of ASCII letters only, too.
    """
    text = name if name.isascii() else unicodedata.normalize("NFKC", name)
    return text.strip().encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def undated(name: str) -> str:
    """Returns a name without the date of a version, because providers answer "gpt-5.2-2025-12-11" to "gpt-5.2"."""
    return _DATE.sub("", name, count=1)
