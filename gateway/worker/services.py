"""The services of one worker, which `app` builds and every route and background task uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from gateway.accounts.accounts import Accounts
    from gateway.accounts.admin_keys import Admins
    from gateway.accounts.rotation import Rotation
    from gateway.accounts.sessions import Sessions
    from gateway.accounts.sign_in import SingleSignOn
    from gateway.concurrency.caller_turns import CallerTurns
    from gateway.concurrency.periodic import Periodic
    from gateway.config.settings import Settings
    from gateway.ledger.ledger import Ledger
    from gateway.notices.notices import Notices
    from gateway.observability.request_log import RequestLog
    from gateway.proxy.handler import RequestHandler
    from gateway.reporting.audit_log import AuditLog
    from gateway.reporting.live_requests import LiveRequests
    from gateway.reporting.request_reporter import RequestReporter
    from gateway.store.store import Store
    from gateway.upstream.model_list import ModelList
    from gateway.websocket.sockets import Sockets
    from gateway.websocket.upgrade import Upgrades
    from gateway.worker.cluster_state import ClusterState
    from gateway.worker.control_loop import ControlLoop
    from gateway.worker.metrics_collector import MetricsCollector
    from gateway.worker.store_inspection import StoreInspection


@dataclass(slots=True)
class Services:
    """What a worker runs on, from start-up to shutdown.

    Mutable: `ready` (the store was seen to enforce limits), `leaving` (the worker was told to stop), and `settings` and
    `model_list`, which a reload replaces.
    """

    settings: Settings
    loop: asyncio.AbstractEventLoop
    store: Store
    ledger: Ledger
    accounts: Accounts
    rotation: Rotation
    admins: Admins
    admin_turns: CallerTurns
    sessions: Sessions
    sign_on: SingleSignOn | None
    audit_log: AuditLog
    handler: RequestHandler
    model_list: ModelList
    cluster_state: ClusterState
    live_requests: LiveRequests
    reporter: RequestReporter
    request_log: RequestLog
    store_inspection: StoreInspection
    sockets: Sockets
    upgrades: Upgrades
    notices: Notices = field(init=False)
    periodics: tuple[Periodic, ...] = ()
    control_loop: ControlLoop = field(init=False)
    metrics_collector: MetricsCollector = field(init=False)
    ready: bool = False
    leaving: bool = False
