"""The composition root: settings in, an ASGI application out. Nothing else in the package builds a service.

build_app(settings) -> Gateway    the hot path first, everything else to FastAPI
  /v1/responses and below         RequestLine, past FastAPI's middleware and routing (a third of a request, measured)
  the rest                        FastAPI: /v1/models, /v1/key, /admin/v1, /dashboard, /healthz, /readyz
lifespan                          store, spool, ledger, upstreams, background tasks; in order, and back
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TextIO

import structlog
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from pydantic import SecretStr

from gateway import __version__, api, dashboard, operations
from gateway.control import Control, Source
from gateway.doorman import Doorman
from gateway.downstream import Receive, Scope, Send
from gateway.errors import GatewayError
from gateway.feed import Feed
from gateway.front import Front
from gateway.ledger.accounts import Accounts
from gateway.ledger.admins import Admins
from gateway.ledger.canary import prove_enforcement
from gateway.ledger.controls import Controls
from gateway.ledger.ledger import Ledger, LedgerPolicy
from gateway.ledger.refused import RefusedLog
from gateway.ledger.responses import Responses
from gateway.ledger.rotation import Rotation
from gateway.ledger.seen import SeenLog
from gateway.ledger.sessions import Sessions
from gateway.ledger.spool import SPOOL, Spool
from gateway.ledger.store import Store
from gateway.ledger.store import StoreSettings as StoreLink
from gateway.ledger.timings import Timings
from gateway.ledger.trail import Trail
from gateway.line import RequestLine
from gateway.metering import Meter
from gateway.metrics.numbers import Numbers
from gateway.metrics.sharing import VARIABLE as METRICS_DIR
from gateway.metrics.sharing import Shared
from gateway.pipeline import Limits, Plan
from gateway.setting_types import FileSecret
from gateway.settings import Settings, UpstreamSettings, load_settings
from gateway.signals import drain_on_signal, reload_on_signal
from gateway.telemetry import configure_logging
from gateway.upstream.catalog import Catalog
from gateway.upstream.factory import build_transport
from gateway.upstream.health import Breaker, KeyRing, UpstreamKey
from gateway.upstream.origin import parse_origin
from gateway.upstream.transport import TransportConfig
from gateway.upstream.upstream import Upstream, UpstreamPolicy

if TYPE_CHECKING:
    from gateway.tracing import Tracing

_GC_EVERY: Final = 20_000
"""New containers between two collections. A request leaves no cycles behind: to look every 700, Python's default, cost
7 % of a JSON answer and found nothing."""
NO_UPSTREAMS: Final[Mapping[str, Upstream]] = MappingProxyType({})


@dataclass(slots=True)
class Services:
    """What a worker runs on, from start-up to shutdown.

    State that changes: `ready`, the store was seen to enforce; `leaving`, it was told to stop; `settings` and
    `catalog`, which a reload replaces.
    """

    settings: Settings
    loop: asyncio.AbstractEventLoop
    store: Store
    ledger: Ledger
    accounts: Accounts
    rotation: Rotation
    admins: Admins
    sessions: Sessions
    trail: Trail
    line: RequestLine
    catalog: Catalog
    controls: Controls
    feed: Feed
    control: Control = field(init=False)
    meter: Meter = field(init=False)
    ready: bool = False
    leaving: bool = False


class Gateway:
    """The ASGI application."""

    def __init__(
        self, settings: Settings, log_to: TextIO = sys.stderr, load: Callable[[], Settings] | None = None
    ) -> None:
        self.settings = settings
        self._source = Source(load, build_plan) if load is not None else None
        self.services: Services | None = None
        self._log_to = log_to
        self._numbers = Numbers(settings.server.metrics_max_series)
        self._front = Front(settings, self._numbers)
        self._doorman = Doorman(settings.server.trusted_proxies, settings.server.auth_failures_per_minute)
        self.app = FastAPI(
            title="OpenResponses gateway",
            version=__version__,
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            # FastAPI's own, which the environment would switch on: it would send what an operator did not ask for.
            telemetry=TelemetryConfig(auto_configure=False, tracing=False, metrics=False, logs=False),
            redirect_slashes=False,  # a redirect would send the key once more, to whatever Host the client named
        )
        api.install(self.app, self._doorman.judge, numeric_codes=settings.errors.numeric_codes)
        dashboard.install(self.app, self._doorman.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application as ASGI has it."""
        await self.dispatch(scope, receive, send)

    def dispatch(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The one hot path; FastAPI does the rest."""
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        target, front, services = operations.find(scope["method"], scope["path"]), self._front, self.services
        if not front.is_bare:
            send = front.dress(scope, send)
            target = target if front.serves_line(scope) else None
        if target is not None and services is not None:
            return services.line(target, scope, receive, send)
        return front.serve(self.app, scope, receive, send)

    def note_refused_head(self, error: GatewayError) -> None:
        """Counts what the server refused before it was a request: it has no route."""
        self._numbers.note_answer("-", error.kind.status, error.code)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        settings = self.settings
        request_log = configure_logging(settings.log.format, settings.log.level, self._log_to)
        async with contextlib.AsyncExitStack() as stack:
            store = await Store.open(store_link(settings))
            stack.push_async_callback(store.close)
            spool = Spool(
                settings.store.data_dir / SPOOL, settings.ledger.spool_max_bytes, settings.ledger.resolution_ttl_s
            )
            ledger = Ledger(store, spool, _policy(settings))
            stack.push_async_callback(ledger.flush)
            plan = build_plan(settings)
            line = RequestLine(
                plan,
                ledger,
                Responses(
                    store,
                    settings.routing.response_ttl_s,
                    admits_unchecked=settings.store.on_failure == "open",
                ),
                request_log,
                self._numbers,
                self._doorman,
                total_timeout_s=settings.server.total_timeout_s,
                numeric_codes=settings.errors.numeric_codes,
            )
            if settings.telemetry.traces:
                tracing = build_tracing()
                line.begin_trace = tracing.begin
                stack.push_async_callback(tracing.end)
            services = _services(settings, store, ledger, line, self._source)
            control, feed = services.control, services.feed
            stack.push_async_callback(control.end)
            stack.push_async_callback(feed.end)
            await control.begin()
            directory = os.environ.get(METRICS_DIR)
            shared = Shared(Path(directory)) if directory else None
            services.meter = meter = Meter(services, self._numbers, spool, shared)
            stack.push_async_callback(meter.end)
            app.state.services = self.services = services
            works = ledger.run(), line.watch_deadlines(), control.run(), feed.run(), meter.run(), _prove(services)
            for work in works:
                stack.push_async_callback(_cancel, asyncio.create_task(work))
            gc.collect()
            gc.freeze()  # what lives from here to the end is not worth looking at again
            gc.set_threshold(_GC_EVERY)
            with drain_on_signal(services), reload_on_signal(services):
                yield


def build_app(
    settings: Settings, log_to: TextIO = sys.stderr, *, load: Callable[[], Settings] | None = None
) -> Gateway:
    """The gateway as an ASGI application; its log goes to `log_to`. `load` reads the settings again, for a reload."""
    return Gateway(settings, log_to, load)


def create_app() -> Gateway:
    """For the server's worker processes: settings from GATEWAY_CONFIG and the environment."""
    path = os.environ.get("GATEWAY_CONFIG")
    load = partial(load_settings, Path(path) if path else None)
    return build_app(load(), load=load)


def _services(settings: Settings, store: Store, ledger: Ledger, line: RequestLine, source: Source | None) -> Services:
    idempotency_ttl_s = settings.ledger.idempotency_ttl_s
    accounts = Accounts(
        store, idempotency_ttl_s=idempotency_ttl_s, journal_retention_s=settings.ledger.journal_retention_s
    )
    refused = RefusedLog(
        store, most=settings.ledger.refused_max_entries, retention_s=settings.ledger.refused_retention_s
    )
    controls = Controls(store)
    admins = Admins(store, idempotency_ttl_s=idempotency_ttl_s)
    services = Services(
        settings=settings,
        loop=asyncio.get_running_loop(),
        store=store,
        ledger=ledger,
        accounts=accounts,
        rotation=Rotation(store, accounts, idempotency_ttl_s=idempotency_ttl_s),
        admins=admins,
        sessions=Sessions(
            store, admins, ttl_s=settings.admin.session_ttl_s, max_attempts=settings.admin.sign_in_attempts
        ),
        trail=Trail(store, settings.admin.audit_max_entries),
        line=line,
        catalog=Catalog(line.plan.upstreams),
        controls=controls,
        feed=Feed(refused, SeenLog(store, retention_s=settings.ledger.usage_retention_s), Timings(store), controls),
    )
    services.control = Control(services, controls, source)
    line.on_end = services.feed.note
    return services


def build_tracing() -> Tracing:
    """Traces: not imported before they are wanted. Raises ImportError without the extra; ValueError for its OTEL_*."""
    from gateway.tracing import Tracing  # noqa: PLC0415 - off, it costs nothing, and the SDK may be absent

    return Tracing()


def build_plan(settings: Settings, keep: Mapping[str, Upstream] = NO_UPSTREAMS) -> Plan:
    """Routes, prices and upstreams as the request line uses them; the upstreams in `keep` are taken as they are."""
    upstreams = {
        name: keep[name] if name in keep else build_upstream(name, upstream)
        for name, upstream in settings.upstreams.items()
    }
    limits = Limits(
        max_body_bytes=settings.server.max_body_bytes,
        body_timeout_s=settings.server.body_timeout_s,
        default_max_output_tokens=settings.limits.default_max_output_tokens,
        failover_s=settings.server.failover_s,
    )
    admin_key = settings.admin.key
    return Plan(settings.router(), upstreams, limits, admin_key.get_secret_value().encode() if admin_key else None)


def build_upstream(name: str, settings: UpstreamSettings) -> Upstream:
    """One upstream with its transport; nothing is connected yet. Raises ValueError for files that cannot be used."""
    config = TransportConfig(
        base_url=settings.base_url,
        connect_timeout_s=settings.connect_timeout_s,
        first_byte_timeout_s=settings.first_byte_timeout_s,
        chunk_timeout_s=settings.chunk_timeout_s,
        max_connections=settings.max_connections,
        max_idle=settings.max_idle_connections,
        idle_expiry_s=settings.idle_expiry_s,
        ca_file=_path(settings.ca_file),
        client_cert_file=_path(settings.client_cert_file),
        client_key_file=_path(settings.client_key_file),
        http2=settings.http2,
        proxy=settings.effective_proxy(),
    )
    origin = parse_origin(settings.base_url)
    return Upstream(
        name,
        (origin.host, origin.port),
        build_transport(config, settings.transport),
        KeyRing(tuple(_upstream_key(number, secret) for number, secret in enumerate(settings.api_keys))),
        Breaker(settings.breaker_failures, settings.breaker_open_s),
        UpstreamPolicy(
            max_answer_bytes=settings.max_answer_bytes,
            max_event_bytes=settings.max_event_bytes,
            on_client_leave=settings.on_client_leave,
            drain_timeout_s=settings.drain_timeout_s,
            key_rest_s=settings.key_rest_s,
        ),
    )


def _upstream_key(number: int, secret: SecretStr) -> UpstreamKey:
    reload = secret.read_again if isinstance(secret, FileSecret) else None
    return UpstreamKey(number, secret.get_secret_value(), reload)


async def _prove(services: Services) -> None:
    """Not ready before the store has been seen to refuse the second request of a limit of one."""
    log = structlog.get_logger("gateway.start")
    problem = ""
    while not services.ready:
        found = await prove_enforcement(services.store, services.ledger)
        services.ready = not found
        if found and found != problem:
            log.error("not_ready", reason=found)
        problem = found
        await asyncio.sleep(0 if services.ready else 0.25)
    log.info("ready", version=__version__)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def store_link(settings: Settings) -> StoreLink:
    """How to reach the store that the settings name."""
    store = settings.store
    return StoreLink(
        url=store.url,
        timeout_s=store.timeout_s,
        connect_timeout_s=store.connect_timeout_s,
        breaker_open_s=store.breaker_open_s,
        max_pending=store.max_pending,
        username=store.username,
        password=store.password.get_secret_value() if store.password else None,
        ca_file=_path(store.ca_file),
    )


def _policy(settings: Settings) -> LedgerPolicy:
    ledger = settings.ledger
    return LedgerPolicy(
        hold_ttl_s=ledger.hold_ttl_s,
        resolution_ttl_s=ledger.resolution_ttl_s,
        journal_retention_s=ledger.journal_retention_s,
        usage_retention_s=ledger.usage_retention_s,
        idempotency_ttl_s=ledger.idempotency_ttl_s,
        on_failure=settings.store.on_failure,
    )


def _path(path: Path | None) -> str | None:
    return str(path) if path is not None else None
