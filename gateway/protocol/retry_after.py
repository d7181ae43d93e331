"""Reads how long an answer asks the client to wait (RFC 9110, 10.2.3; `retry-after-ms` is OpenAI's). Pure."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import Final

from gateway.types import Headers

_SECONDS: Final = re.compile(r"\d{1,9}(?:\.\d{1,9})?")


def retry_after_s(headers: Headers, now_unix_s: float) -> float | None:
    """Returns the time in seconds, or None if the answer states none. `now_unix_s` is the reference for dates."""
    fields = dict(headers)
    for name, unit_s in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        if name not in fields:
            continue
        text = fields[name].decode("latin-1").strip()
        if _SECONDS.fullmatch(text):
            return float(text) * unit_s
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - now_unix_s)
        except (ValueError, OverflowError):
            continue
    return None
