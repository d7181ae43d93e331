"""Voids the holds of admissions that nobody waits for any more: their caller has left, or their reply was lost.

Such an admission may still be under way on a lost connection, and may reach the store after a void that was sent on a
new connection. Its hold would then stay until it expires. Therefore the void is sent at once, and a second time when
the deadline of the admission has passed, after which it cannot run any more (`Store.run_by_ms`).

Mutable: the timers of the second voids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.billing.lifecycle import Outcome
from gateway.billing.settlement import NO_USAGE, Settlement
from gateway.ledger.admissions import AdmissionRequest, hold_of

_ROUNDING_S: Final = 0.005
"""Deadlines are rounded to milliseconds, and include the last one."""


class Abandoned:
    """The abandoned admissions of one worker. `settle` posts a settlement and cannot fail."""

    def __init__(self, settle: Callable[[Settlement], object], timeout_s: float) -> None:
        self._settle = settle
        self._wait_s = timeout_s + _ROUNDING_S
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def add(self, request: AdmissionRequest) -> None:
        """Voids the hold that a request may have."""
        void = Settlement(hold_of(request, 0), "void", 0, NO_USAGE, "-", Outcome.REFUSED, request.demand.model, "")
        self._settle(void)
        self._timers[request.request_id] = self._loop.call_later(self._wait_s, self._again, void)

    async def end(self) -> None:
        """Waits at shutdown until the second voids have been sent, for at most the store's timeout."""
        if self._timers:
            last_s = max(timer.when() for timer in self._timers.values())
            await asyncio.sleep(last_s + _ROUNDING_S - self._loop.time())

    def _again(self, void: Settlement) -> None:
        del self._timers[void.hold.id]
        self._settle(void)
