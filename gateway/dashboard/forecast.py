"""When a balance ends if spending goes on as it went. Pure.

rate      what was spent in the window / the window's length; a team younger than the window counts from its creation,
          and never less than a day, so that a first hour is not taken for a habit
ends      now + available / rate; never where nothing is spent
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DAY_MS: Final = 86_400_000
FAR_MS: Final = 10 * 365 * DAY_MS


@dataclass(frozen=True, slots=True)
class Forecast:
    """`a_day`: nano-USD. `ends_ms`: when the balance ends; 0: not within ten years."""

    a_day: int
    ends_ms: int


def forecast(*, available: int, spent: int, from_ms: int, created_ms: int, now_ms: int) -> Forecast:
    """Of `available` nano-USD, with `spent` nano-USD from `from_ms` until now."""
    window_ms = max(DAY_MS, now_ms - max(from_ms, created_ms))
    if spent <= 0:
        return Forecast(0, 0)
    left_ms = max(0, available) * window_ms // spent
    return Forecast(spent * DAY_MS // window_ms, now_ms + left_ms if left_ms <= FAR_MS else 0)
