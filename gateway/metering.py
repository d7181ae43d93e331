"""One worker's numbers on their way to whoever asks: counts, the state of its parts, the other workers' reports."""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway.feed import Feed
from gateway.ledger.ledger import Ledger
from gateway.ledger.spool import Spool
from gateway.ledger.store import Store
from gateway.line import RequestLine
from gateway.metrics import sampling
from gateway.metrics.numbers import Numbers, Snapshot, added
from gateway.metrics.sharing import EVERY_S, Shared


class Parts(Protocol):
    """What is looked at; `app.Services` has it."""

    store: Store
    ledger: Ledger
    line: RequestLine
    feed: Feed
    ready: bool


class Meter:
    """One worker's numbers, and the way to those of the others; `shared` is None where there are none."""

    def __init__(self, parts: Parts, numbers: Numbers, spool: Spool, shared: Shared | None) -> None:
        self._parts = parts
        self._numbers = numbers
        self._spool = spool
        self._shared = shared

    async def run(self) -> None:
        """Tells the other workers, until it is cancelled."""
        if self._shared is None:
            return
        begun = False
        while True:
            begun = begun or await asyncio.to_thread(self._take_over, self._shared)
            if begun:
                await asyncio.to_thread(self._shared.publish, self._counters(), self._gauges())
            await asyncio.sleep(EVERY_S)

    async def end(self) -> None:
        """At shutdown, after the last request: its counts stay, its gauges go."""
        if self._shared is not None:
            await asyncio.to_thread(self._shared.publish, self._counters(), {})

    async def total(self) -> Snapshot:
        """All workers' numbers."""
        if self._shared is None:
            return added([self._counters(), self._gauges()])
        return await asyncio.to_thread(self._shared.total, self._counters(), self._gauges())

    @staticmethod
    def _take_over(shared: Shared) -> bool:
        try:
            shared.take_over()
        except OSError:  # a full disk: later
            return False
        return True

    def _counters(self) -> Snapshot:
        parts = self._parts
        return self._numbers.snapshot() | sampling.counters(parts.ledger, self._spool, parts.feed.dropped)

    def _gauges(self) -> Snapshot:
        parts, line = self._parts, self._parts.line
        now_s = asyncio.get_running_loop().time()
        state = sampling.gauges(
            parts.store, parts.ledger, self._spool, line.plan.upstreams, ready=parts.ready, now_s=now_s
        )
        return state | sampling.requests(len(line.running), line.streams)
