"""How the names of models are compared: requests, answers and configurations spell them differently. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_DATE: Final = re.compile(r"[-@](?:20\d\d-?\d\d-?\d\d)(?=\Z|:)")


def folded(name: str) -> str:
    """The form in which names are compared.

    It has no white space around it, no upper case among its ASCII letters, and is in Unicode's compatibility form
    (NFKC). The store's scripts know only ASCII's case, too.
    """
    text = name if name.isascii() else unicodedata.normalize("NFKC", name)
    return text.strip().encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def undated(name: str) -> str:
    """A name without the date of a version: providers answer "gpt-5.2-2025-12-11" to "gpt-5.2"."""
    return _DATE.sub("", name, count=1)
