"""Times in the format of the API: ISO 8601 in UTC. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_time(ms: int) -> str:
    """Formats a time in ms since 1970 as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
