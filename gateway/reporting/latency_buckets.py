"""Durations of requests as counts in fixed buckets, which add up exactly over workers, hours and models. Pure.

    duration(ms)          formats a duration for reading
    bucket_ms(ms)         the upper bound of the bucket of a duration; a bucket includes its upper bound
    quantile(counts, q)   the duration that a share `q` of the requests did not exceed, interpolated within a bucket

Each bucket's upper bound is about one and a half times its lower bound, so that a quantile is off by at most a third.
Durations beyond the last bound count as the last bound.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

# fmt: off
BOUNDS_MS: Final = (
    5, 10, 15, 25, 40, 60, 100, 150, 250, 400, 600, 1_000, 1_500, 2_500, 4_000, 6_000, 10_000, 15_000, 25_000, 40_000,
    60_000, 100_000, 150_000, 250_000, 400_000, 600_000, 1_000_000, 1_800_000, 3_600_000,
)
# fmt: on


def bucket_ms(ms: float) -> int:
    """Returns the upper bound of the duration's bucket."""
    return BOUNDS_MS[min(bisect_left(BOUNDS_MS, ms), len(BOUNDS_MS) - 1)]


def duration(ms: float | None) -> str:
    """Formats a duration for reading: "340 ms", "2.4 s", "12 min", or "" for None."""
    if ms is None:
        return ""
    if ms < 1_000:  # noqa: PLR2004 - a second
        return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"  # noqa: PLR2004 - below ten, one more digit is shown
    return f"{ms / 1000:.1f} s" if ms < 120_000 else f"{ms / 60_000:.0f} min"  # noqa: PLR2004 - two minutes


def quantile(counts: Mapping[int, int], q: float) -> float | None:
    """Returns a quantile in ms, from counts by the upper bound of their bucket.

    Returns None without counts. 0 < q <= 1.
    """
    wanted = q * sum(counts.values())
    below = 0
    for bound in sorted(counts):
        count = counts[bound]
        if count and below + count >= wanted:
            at = bisect_left(BOUNDS_MS, bound)
            start = BOUNDS_MS[at - 1] if at else 0
            return round(start + (bound - start) * (wanted - below) / count, 1)
        below += count
    return None
