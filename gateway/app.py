"""The composition root: from settings to an ASGI application. Only this module and worker/parts.py build services.

build_app(settings) -> Gateway
  /v1/responses and below   RequestHandler, without FastAPI's middleware and routing (measured: a third of a request)
  everything else           FastAPI: /v1/models, /v1/key, /admin/v1, /dashboard, /healthz, /readyz
lifespan                    starts store, spool, ledger, upstreams and background tasks, and stops them in reverse order
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from gateway import __version__, api, dashboard
from gateway.accounts.accounts import Accounts
from gateway.accounts.admin_keys import Admins
from gateway.accounts.rotation import Rotation
from gateway.accounts.sessions import Sessions
from gateway.api.middleware import RouteMiddleware
from gateway.concurrency.caller_turns import CallerTurns
from gateway.concurrency.off_loop import OffLoop
from gateway.config.environment_proxy import environment_proxy
from gateway.config.settings import Settings
from gateway.errors import GatewayError
from gateway.http.auth_throttle import AuthThrottle
from gateway.http.client_address import ClientAddresses
from gateway.http.connection_client import client_of
from gateway.ledger.known_responses import KnownResponses
from gateway.ledger.ledger import Ledger
from gateway.ledger.owners import lost_owners, own_name
from gateway.ledger.spool import SPOOL, Spool
from gateway.notices.notices import Notices
from gateway.observability.metrics.counters import Counters
from gateway.observability.metrics.multiprocess import VARIABLE as METRICS_DIR
from gateway.observability.metrics.multiprocess import SharedMetrics
from gateway.observability.request_log import RequestLog, open_request_log
from gateway.observability.request_record import RequestRecord
from gateway.protocol import azure_paths, operations
from gateway.protocol.error_forms import error_body
from gateway.proxy.background_runner import BackgroundRunner
from gateway.proxy.body_budget import BodyBudget
from gateway.proxy.compactor import Compactor
from gateway.proxy.handler import RequestHandler
from gateway.proxy.late_usage import LateUsage
from gateway.reporting.audit_log import AuditLog
from gateway.reporting.live_requests import LiveRequests
from gateway.reporting.outcome_rollups import OutcomeRollups
from gateway.reporting.refused_requests import RefusedRequests
from gateway.reporting.request_reporter import RequestReporter
from gateway.reporting.request_timings import RequestTimings
from gateway.store.store import Store
from gateway.types import Headers, Receive, Scope, Send
from gateway.upstream.model_list import ModelList
from gateway.websocket.sockets import Sockets
from gateway.websocket.upgrade import Upgrades, is_websocket, refuse_elsewhere
from gateway.worker.background import EnforcementCheck, background_periodics
from gateway.worker.cluster_state import ClusterState
from gateway.worker.control_loop import ControlLoop, Source
from gateway.worker.metrics_collector import MetricsCollector
from gateway.worker.parts import (
    NoticePolicies,
    build_form_spool,
    build_otel_metrics,
    build_sign_on,
    build_snapshot,
    build_tracing,
    build_turns,
    ledger_policy,
    socket_policy,
    store_settings,
)
from gateway.worker.services import Services
from gateway.worker.signals import drain_on_signal, reload_on_signal
from gateway.worker.store_inspection import StoreInspection


def _nothing() -> None:
    """The default callback, which does nothing."""


class Gateway:
    """The ASGI application."""

    def __init__(
        self,
        settings: Settings,
        request_log: RequestLog | None = None,
        load: Callable[[], Settings] | None = None,
        on_started: Callable[[], None] = _nothing,
    ) -> None:
        self.settings = settings
        self._off_loop = OffLoop(settings.server.threads)
        self._forms = build_form_spool(settings)
        self._build = partial(build_snapshot, self._off_loop, BodyBudget(settings.server.max_bodies_bytes), self._forms)
        self._source = Source(load, self._build) if load is not None else None
        self.services: Services | None = None
        self.leaving = False  # see `http.connection_context.Application`
        self._request_log = request_log
        self._on_started = on_started
        self._counters = Counters(settings.server.metrics_max_series)
        self._middleware = RouteMiddleware(settings, self._counters)
        self._azure_paths = settings.server.azure_paths
        self._addresses = ClientAddresses(settings.server.trusted_proxies)
        self._throttle = AuthThrottle(self._addresses, settings.server.auth_failures_per_minute)
        self.app = FastAPI(
            title="OpenResponses gateway",
            version=__version__,
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            # The environment could switch FastAPI's own telemetry on. It would send data that the operator did not ask
            # for.
            telemetry=TelemetryConfig(auto_configure=False, tracing=False, metrics=False, logs=False),
            # a redirect would make the client send its key again, to whatever Host it had named
            redirect_slashes=False,
        )
        api.install(self.app, self._throttle.throttle, numeric_codes=settings.errors.numeric_codes)
        dashboard.install(self.app, self._addresses.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        await self.dispatch(scope, receive, send)

    def _leave(self) -> None:
        self.leaving = True

    def dispatch(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Passes requests of the hot path to the handler and all others to FastAPI."""
        if scope["type"] == "websocket":
            return refuse_elsewhere(receive, send)
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        deployment = ""
        if self._azure_paths and scope["path"].startswith(azure_paths.PREFIX):
            scope, deployment = azure_paths.plain(scope)
        target, middleware, services = operations.find(scope["method"], scope["path"]), self._middleware, self.services
        if not middleware.is_bare:
            send = middleware.add_cors(scope, send)
            target = target if middleware.serves_request(scope) else None
        if target is not None and services is not None:
            target = target if not deployment else replace(target, model=deployment)
            return services.handler(target, client_of(scope, receive, send))
        if services is not None and is_websocket(scope) and middleware.serves_request(scope):
            return services.upgrades(scope, receive, send)
        return middleware.serve(self.app, scope, receive, send)

    def refuse_head(self, error: GatewayError, scope: Scope | None = None) -> tuple[int, Headers, bytes]:
        """Counts and renders the refusal of what no route has seen. See `http.connection_context.Application`."""
        self._counters.note_answer("-", error.kind.status, error.code)
        path, headers = ("", ()) if scope is None else (scope["path"], scope["headers"])
        told = error_body(path, headers, error, "", numeric_codes=self.settings.errors.numeric_codes)
        return error.render(told)

    def _upgrades(self, handler: RequestHandler, responses: KnownResponses) -> Upgrades:
        settings = self.settings
        return Upgrades(
            Sockets(socket_policy(settings), handler.snapshot.limits.body_bounds, handler),
            responses,
            self._counters,
            self._throttle,
            frozenset(settings.server.cors_origins),
            numeric_codes=settings.errors.numeric_codes,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        settings = self.settings
        request_log = self._request_log or open_request_log(settings.log)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, request_log.drain)
            stack.callback(self._off_loop.close)
            stack.callback(self._forms.close)
            store = await Store.open(store_settings(settings))
            stack.push_async_callback(store.close)
            spool = Spool(
                settings.store.data_dir / SPOOL, settings.ledger.spool_max_bytes, settings.ledger.resolution_ttl_s
            )
            ledger = Ledger(store, spool, ledger_policy(settings), owner=own_name(), lost=lost_owners())
            stack.push_async_callback(ledger.flush)
            snapshot = self._build(settings)
            responses = KnownResponses(
                store,
                settings.routing.response_ttl_s,
                admits_unchecked=settings.store.on_failure == "open",
            )
            handler = RequestHandler(
                snapshot,
                ledger,
                responses,
                request_log,
                self._counters,
                self._throttle,
                total_timeout_s=settings.server.total_timeout_s,
                numeric_codes=settings.errors.numeric_codes,
            )
            handler.turns = turns = build_turns(settings, store, self._off_loop)
            handler.compactor = Compactor(ledger, handler)
            handler.background = BackgroundRunner(
                turns.background, ledger, handler, max_wait_s=settings.server.total_timeout_s
            )
            late_usage = LateUsage(ledger, responses, handler)
            handler.settler.on_estimated_usage = late_usage.add
            upgrades = self._upgrades(handler, responses)
            services = _services(settings, store, ledger, handler, request_log, self._source, upgrades)
            _begin_telemetry(settings, handler, services.reporter.note, stack)
            control_loop, reporter = services.control_loop, services.reporter
            if services.sign_on is not None:
                stack.push_async_callback(services.sign_on.provider.close)
            stack.push_async_callback(control_loop.end)
            stack.push_async_callback(reporter.end)
            stack.push_async_callback(services.notices.close)
            await control_loop.begin()
            directory = os.environ.get(METRICS_DIR)
            shared = SharedMetrics(Path(directory)) if directory else None
            services.metrics_collector = metrics_collector = MetricsCollector(services, self._counters, spool, shared)
            stack.push_async_callback(metrics_collector.end)
            app.state.services = self.services = services
            periodics = (*background_periodics(services, EnforcementCheck(services).work), late_usage.work)
            services.periodics = (*store.periodics, *periodics)
            for work in periodics:
                stack.push_async_callback(_cancel, asyncio.create_task(work.run(), name=work.name))
            stack.push_async_callback(handler.background.finish, settings.server.drain_timeout_s, handler.end_all)
            self._on_started()
            with drain_on_signal(services, self._leave), reload_on_signal(services):
                yield


def build_app(
    settings: Settings,
    request_log: RequestLog | None = None,
    *,
    load: Callable[[], Settings] | None = None,
    on_started: Callable[[], None] = _nothing,
) -> Gateway:
    """Builds the gateway as an ASGI application.

    Without a `request_log` one is opened on standard error. `load` reads the settings again, for a reload. `on_started`
    is called once everything that lives as long as the process has been built. What belongs to the whole process is set
    by its server, see `server.py`.
    """
    return Gateway(settings, request_log, load, on_started)


def _services(
    settings: Settings,
    store: Store,
    ledger: Ledger,
    handler: RequestHandler,
    request_log: RequestLog,
    source: Source | None,
    upgrades: Upgrades,
) -> Services:
    idempotency_ttl_s = settings.ledger.idempotency_ttl_s
    accounts = Accounts(
        store,
        idempotency_ttl_s=idempotency_ttl_s,
        journal_retention_s=settings.ledger.journal_retention_s,
        burst=settings.ledger.burst,
        max_lots=settings.ledger.max_credit_lots,
    )
    refused = RefusedRequests(
        store, max_entries=settings.ledger.refused_max_entries, retention_s=settings.ledger.refused_retention_s
    )
    cluster_state, live_requests = ClusterState(store), LiveRequests(store)
    admins = Admins(store, idempotency_ttl_s=idempotency_ttl_s)
    audit_log = AuditLog(store, settings.admin.audit_max_entries)
    services = Services(
        settings=settings,
        loop=asyncio.get_running_loop(),
        store=store,
        ledger=ledger,
        accounts=accounts,
        rotation=Rotation(store, accounts, idempotency_ttl_s=idempotency_ttl_s),
        admins=admins,
        admin_turns=CallerTurns(settings.admin.max_parallel, settings.admin.max_waiting),
        sessions=Sessions(
            store, admins, ttl_s=settings.admin.session_ttl_s, max_attempts=settings.admin.sign_in_attempts
        ),
        sign_on=build_sign_on(settings, admins, accounts),
        audit_log=audit_log,
        handler=handler,
        model_list=ModelList(handler.snapshot.upstreams),
        cluster_state=cluster_state,
        live_requests=live_requests,
        reporter=RequestReporter(
            refused,
            OutcomeRollups(store, retention_s=settings.ledger.usage_retention_s),
            RequestTimings(store),
            live_requests,
            audit_log,
            ledger.queue.slot_times,
        ),
        request_log=request_log,
        store_inspection=StoreInspection(store),
        sockets=upgrades.sockets,
        upgrades=upgrades,
    )
    services.control_loop = ControlLoop(services, cluster_state, source)
    services.notices = Notices(store, accounts, NoticePolicies(lambda: services.settings), environment_proxy)
    handler.on_end = services.reporter.note
    return services


def _begin_telemetry(
    settings: Settings,
    handler: RequestHandler,
    note: Callable[[RequestRecord], None],
    stack: contextlib.AsyncExitStack,
) -> None:
    """Builds what sends traces and metrics, where they are on."""
    if settings.telemetry.traces:
        tracing = build_tracing()
        handler.begin_trace = tracing.begin
        stack.push_async_callback(tracing.end)
    if settings.telemetry.metrics:
        metrics = build_otel_metrics(settings.server.metrics_max_series)
        handler.on_end = _both(note, metrics.note)
        stack.push_async_callback(metrics.end)


def _both(
    one: Callable[[RequestRecord], None], other: Callable[[RequestRecord], None]
) -> Callable[[RequestRecord], None]:
    def note(record: RequestRecord) -> None:
        one(record)
        other(record)

    return note


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
