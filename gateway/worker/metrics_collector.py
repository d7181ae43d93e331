"""Collects one worker's metrics: its counters, the state of its parts, and the reports of the other workers."""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway.accounts.admin_keys import Admins
from gateway.concurrency.periodic import Periodic
from gateway.ledger.ledger import Ledger
from gateway.ledger.spool import Spool
from gateway.notices.notices import Notices
from gateway.observability.metrics.counters import Counters, Snapshot, added
from gateway.observability.metrics.multiprocess import SharedMetrics
from gateway.observability.request_log import RequestLog
from gateway.proxy.handler import RequestHandler
from gateway.reporting.request_reporter import RequestReporter
from gateway.store.store import Store
from gateway.websocket.sockets import Sockets
from gateway.worker import gauges
from gateway.worker.store_inspection import StoreInspection


class Parts(Protocol):
    """The parts that are sampled. `services.Services` has them."""

    store: Store
    ledger: Ledger
    handler: RequestHandler
    reporter: RequestReporter
    request_log: RequestLog
    store_inspection: StoreInspection
    admins: Admins
    periodics: tuple[Periodic, ...]
    sockets: Sockets
    notices: Notices
    ready: bool


class MetricsCollector:
    """The metrics of one worker and access to those of the others. `shared` is None where there is only one worker.

    Mutable: whether the counters of dead workers were taken over.
    """

    def __init__(self, parts: Parts, counters: Counters, spool: Spool, shared: SharedMetrics | None) -> None:
        self._parts = parts
        self._counters = counters
        self._spool = spool
        self._shared = shared
        self._begun = False

    async def publish(self) -> None:
        """Publishes this worker's metrics to the others, if there are any."""
        if self._shared is None:
            return
        self._begun = self._begun or await asyncio.to_thread(self._take_over, self._shared)
        if self._begun:
            await asyncio.to_thread(self._shared.publish, self._worker_counts(), self._gauges())

    async def end(self) -> None:
        """At shutdown, after the last request: keeps the counters and removes the gauges."""
        if self._shared is not None:
            await asyncio.to_thread(self._shared.publish, self._worker_counts(), {})

    async def total(self) -> Snapshot:
        """Returns the metrics of all workers, added up."""
        if self._shared is None:
            return added([self._worker_counts(), self._gauges()])
        return await asyncio.to_thread(self._shared.total, self._worker_counts(), self._gauges())

    @staticmethod
    def _take_over(shared: SharedMetrics) -> bool:
        try:
            shared.take_over()
        except OSError:  # the disk is full; the next round tries again
            return False
        return True

    def _worker_counts(self) -> Snapshot:
        parts = self._parts
        own = gauges.counters(
            parts.ledger, self._spool, parts.reporter, parts.request_log, parts.admins, parts.periodics
        )
        return (
            self._counters.snapshot()
            | own
            | gauges.ended_sockets(parts.sockets)
            | gauges.unstored(parts.handler.turns)
            | gauges.notices(parts.notices)
        )

    def _gauges(self) -> Snapshot:
        parts, handler = self._parts, self._parts.handler
        now_s = asyncio.get_running_loop().time()
        state = gauges.gauges(
            parts.store, parts.ledger, self._spool, handler.snapshot.upstreams, ready=parts.ready, now_s=now_s
        )
        requests = gauges.requests(len(handler.running), handler.streams)
        dangers = gauges.dangers(parts.store_inspection)
        sockets = gauges.open_sockets(parts.sockets)
        kept = gauges.background_responses(handler.background)
        waiting = gauges.waiting_notices(parts.notices)
        return state | requests | dangers | sockets | kept | waiting | gauges.background(parts.periodics, now_s)
