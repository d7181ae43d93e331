"""Times in the format of the API: ISO 8601 in UTC. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS: Final = 253_402_300_799_000
"""The last second of the year 9999, which is the last time of the format."""


def iso_time(ms: int) -> str:
    """Formats a time in ms since 1970 as ISO 8601 in UTC, to the millisecond. A later time becomes the last one."""
    moment = _EPOCH + timedelta(milliseconds=min(ms, _LATEST_MS))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
