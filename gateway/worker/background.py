"""The background work of a worker. `concurrency.periodic` supervises each kind.

| name                   | does                                                                | where                 |
|------------------------|---------------------------------------------------------------------|-----------------------|
| `renew-holds`          | extends the holds of running requests                               | `ledger`              |
| `expire-holds`         | voids holds that nobody renews                                      | `ledger`              |
| `replay-spool`         | sends what the store did not accept                                 | `ledger`              |
| `renew-lease`          | renews this worker's lease; voids what dead workers held            | `ledger`              |
| `confirm-replicas`     | drops the settlements that every replica has                        | `ledger`              |
| `watch-primary`        | asks the Sentinels for the primary; the store runs it itself        | `store`               |
| `end-overdue-requests` | ends requests that have exceeded their total time                   | `proxy.handler`       |
| `tend-websockets`      | pings; ends sockets that are old, idle or not read                  | `websocket.sockets`   |
| `control`              | applies operators' orders, reports this worker                      | `worker.control_loop` |
| `report-requests`      | writes the reports that operators read                              | `reporting`           |
| `run-background`       | renews, starts and ends background responses                        | `proxy.handler`       |
| `renew-conversations`  | renews the locks that running turns have on conversations           | `proxy.handler`       |
| `send-notices`         | finds thresholds that were reached, and sends notices               | `notices.notices`     |
| `publish-metrics`      | publishes this worker's metrics to the other workers                | `worker`              |
| `inspect-store`        | checks whether the store may lose data                              | `worker`              |
| `check-enforcement`    | checks that the store refuses what exceeds a limit; then ends       | here                  |
"""

from __future__ import annotations

from typing import Final, Protocol

import structlog

from gateway import __version__
from gateway.concurrency.periodic import Periodic
from gateway.errors import GatewayError
from gateway.ledger.enforcement_check import check_enforcement
from gateway.ledger.ledger import Ledger
from gateway.notices.notices import Notices
from gateway.observability.metrics import multiprocess
from gateway.proxy.background_runner import ROUND_S
from gateway.proxy.handler import SWEEP_S, RequestHandler
from gateway.reporting import request_reporter
from gateway.reporting.request_reporter import RequestReporter
from gateway.state.conversations import LOCK_LIFE_S
from gateway.store.errors import StoreUnavailable
from gateway.store.store import Store
from gateway.websocket.sockets import MAINTAIN_S, Sockets
from gateway.worker import control_loop
from gateway.worker.control_loop import ControlLoop
from gateway.worker.metrics_collector import MetricsCollector
from gateway.worker.store_inspection import StoreInspection

OUTAGES: Final = (StoreUnavailable, GatewayError)
"""The exceptions that a round may raise while the store is unavailable."""
_CHECK_EVERY_S: Final = 0.25


class Parts(Protocol):
    """The parts with background work.

    `services.Services` has them. Mutable: `ready` (the store was seen to enforce limits).
    """

    store: Store
    ledger: Ledger
    handler: RequestHandler
    reporter: RequestReporter
    control_loop: ControlLoop
    metrics_collector: MetricsCollector
    store_inspection: StoreInspection
    sockets: Sockets
    notices: Notices
    ready: bool


def background_periodics(parts: Parts, check: Periodic) -> tuple[Periodic, ...]:
    """Returns all background work, which the application runs from its start to its shutdown."""
    return (
        *parts.ledger.periodics,
        Periodic("end-overdue-requests", SWEEP_S, parts.handler.end_overdue),
        Periodic("tend-websockets", MAINTAIN_S, parts.sockets.maintain),
        Periodic("control", control_loop.EVERY_S, parts.control_loop.run_round, outages=OUTAGES),
        Periodic("report-requests", request_reporter.EVERY_S, parts.reporter.report, outages=OUTAGES),
        Periodic("run-background", ROUND_S, parts.handler.run_background, outages=OUTAGES),
        Periodic("renew-conversations", LOCK_LIFE_S / 3, parts.handler.renew_conversations, outages=OUTAGES),
        parts.store_inspection.work,
        parts.notices.work,
        Periodic("publish-metrics", multiprocess.EVERY_S, parts.metrics_collector.publish),
        check,
    )


class EnforcementCheck:
    """Makes a worker ready once the store has refused the second of two requests under a limit of one.

    Mutable: the problem that was logged last.
    """

    def __init__(self, parts: Parts) -> None:
        self.work: Final = Periodic("check-enforcement", _CHECK_EVERY_S, self._check)
        self._parts = parts
        self._problem = ""
        self._log = structlog.get_logger("gateway.start")

    async def _check(self) -> None:
        problem = await check_enforcement(self._parts.store, self._parts.ledger)
        if not problem:
            self._parts.ready = True
            self._log.info("ready", version=__version__)
            self.work.finish()
        elif problem != self._problem:
            self._log.error("not_ready", reason=problem)
        self._problem = problem
