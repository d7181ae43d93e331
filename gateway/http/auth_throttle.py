"""Limits wrong keys per client address: a 401 beyond the limit becomes 429 too_many_failures.

A valid key is never delayed, because a failure is counted only when it is answered. Each worker has its own counts.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from gateway.errors import GatewayError
from gateway.http.client_address import ClientAddresses
from gateway.protocol.wording import counted
from gateway.types import Scope

MAX_ADDRESSES: Final = 10_000
"""Addresses that are remembered, about 2 MB. Beyond that the oldest one is forgotten."""
_MINUTE_S: Final = 60.0
_FAILURES: Final = frozenset({"invalid_api_key", "invalid_admin_key"})


class AuthThrottle:
    """The counts of one worker. Mutable: the failures of each address in its current minute."""

    def __init__(
        self,
        addresses: ClientAddresses,
        failures_per_minute: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.addresses = addresses
        self._failures_per_minute = failures_per_minute
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def throttle(self, scope: Scope, error: GatewayError) -> GatewayError:
        """Returns the error to answer with: the given one, or too_many_failures."""
        if error.code not in _FAILURES or not self._failures_per_minute:
            return error
        host, now_s = self.addresses.host(scope), self._clock()
        began_s, count = self._failures.pop(host, (now_s, 0))
        if now_s - began_s >= _MINUTE_S:
            began_s, count = now_s, 0
        self._failures[host] = (began_s, count + 1)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        if count < self._failures_per_minute:
            return error
        most = counted(self._failures_per_minute, "request")
        return GatewayError(
            "too_many_failures",
            f"More than {most} per minute with a wrong key came from this address.",
            wait_ms=max(1, int((began_s + _MINUTE_S - now_s) * 1000)),
            explain={"limit": self._failures_per_minute, "scope": "address", "limit_source": "gateway"},
        )
