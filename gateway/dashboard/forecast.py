"""When a balance ends if spending continues at the present rate. Pure.

rate      the spend in the window divided by the window's length; for a team younger than the window, the time since its
          creation, but at least a day, so that the first hour does not count as typical
end       now + usable / rate; never if nothing is spent
usable    what is available, without what expires before it is spent at this rate; what expires first is spent first
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

DAY_MS: Final = 86_400_000
FAR_MS: Final = 10 * 365 * DAY_MS


@dataclass(frozen=True, slots=True)
class Forecast:
    """`a_day` is in nano-USD. `ends_ms` is when the balance ends, or 0 if not within ten years."""

    a_day: int
    ends_ms: int


def forecast(
    *,
    available: int,
    spent: int,
    from_ms: int,
    created_ms: int,
    now_ms: int,
    expiring: Sequence[tuple[int, int]] = (),
) -> Forecast:
    """Forecasts the end of `available` nano-USD, given `spent` nano-USD from `from_ms` until now.

    `expiring`: the parts of it that expire, as the time (ms) and the amount, the first expiry first.
    """
    window_ms = max(DAY_MS, now_ms - max(from_ms, created_ms))
    if spent <= 0:
        return Forecast(0, 0)
    usable, used = available, 0
    for expires_ms, amount in expiring:
        spendable = min(amount, max(0, spent * (expires_ms - now_ms) // window_ms - used))
        used += spendable
        usable -= amount - spendable
    left_ms = max(0, usable) * window_ms // spent
    return Forecast(spent * DAY_MS // window_ms, now_ms + left_ms if left_ms <= FAR_MS else 0)
