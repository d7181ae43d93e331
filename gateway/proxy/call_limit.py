"""How many calls of a kind a key may make that cost nothing: dry runs, counts of tokens. No other limit counts them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey

MOST_KEYS: Final = 10_000
"""Keys that are remembered; more forget the oldest."""
_MINUTE_S: Final = 60.0


class CallLimit:
    """One worker's, of one kind of call. A bucket for each key, which drains evenly over a minute.

    It is the secret's, not the key id's: who guesses at a key takes nothing from its owner.
    State that changes: when each key's bucket will be empty.
    """

    def __init__(self, calls: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`calls`: what they are called in a refusal."""
        self._calls = calls
        self._clock = clock
        self._empty_s: OrderedDict[str, float] = OrderedDict()

    def take(self, key: ApiKey, per_minute: int) -> None:
        """Counts one of so many per minute. Raises GatewayError `rate_limit_exceeded`."""
        now_s, each_s = self._clock(), _MINUTE_S / per_minute
        empty_s = max(now_s, self._empty_s.pop(key.secret_hash, now_s))
        wait_s = empty_s + each_s - now_s - _MINUTE_S
        refused = wait_s > each_s / 1000  # sums of fractions
        self._empty_s[key.secret_hash] = empty_s if refused else empty_s + each_s
        if len(self._empty_s) > MOST_KEYS:
            self._empty_s.popitem(last=False)
        if refused:
            raise GatewayError(
                "rate_limit_exceeded",
                f"A key may make {per_minute} {self._calls} per minute.",
                wait_ms=max(1, round(wait_s * 1000)),
                explain={"limit": per_minute, "scope": "key", "limit_source": "gateway"},
            )
