"""Limits calls that cost nothing, such as dry runs and counts of tokens. They count at no other limit."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey

MAX_KEYS: Final = 10_000
"""How many keys are remembered. Beyond that, the oldest one is forgotten."""
_MINUTE_S: Final = 60.0


class CallLimit:
    """The limit of one worker for one kind of call. Each key has a bucket that drains evenly over a minute.

    A bucket belongs to a secret and not to a key's id, so that calls with a guessed secret do not count for its owner.
    State that changes: the time at which each bucket will be empty.
    """

    def __init__(self, calls: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`calls` is their name in a refusal."""
        self._calls = calls
        self._clock = clock
        self._empty_s: OrderedDict[str, float] = OrderedDict()

    def take(self, key: ApiKey, per_minute: int) -> None:
        """Counts one call. Raises GatewayError `rate_limit_exceeded` beyond `per_minute` calls per minute."""
        now_s, each_s = self._clock(), _MINUTE_S / per_minute
        empty_s = max(now_s, self._empty_s.pop(key.secret_hash, now_s))
        wait_s = empty_s + each_s - now_s - _MINUTE_S
        refused = wait_s > each_s / 1000  # tolerates the rounding of floating-point sums
        self._empty_s[key.secret_hash] = empty_s if refused else empty_s + each_s
        if len(self._empty_s) > MAX_KEYS:
            self._empty_s.popitem(last=False)
        if refused:
            raise GatewayError(
                "rate_limit_exceeded",
                f"A key may make {per_minute} {self._calls} per minute.",
                wait_ms=max(1, round(wait_s * 1000)),
                explain={"limit": per_minute, "scope": "key", "limit_source": "gateway"},
            )
