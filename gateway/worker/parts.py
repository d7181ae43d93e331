"""Builds a worker's parts from the settings. Nothing is connected yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from gateway.accounts.accounts import Accounts
from gateway.accounts.admin_keys import Admins
from gateway.accounts.sign_in import SingleSignOn
from gateway.billing.money import parse_usd
from gateway.concurrency.off_loop import OffLoop
from gateway.config.notice_settings import RecipientSettings, signing_key
from gateway.config.settings import Settings
from gateway.config.types import FileSecret
from gateway.config.upstream_settings import UpstreamSettings
from gateway.http.websocket_connection import SocketBounds
from gateway.http.websocket_handshake import WebSocketOptions
from gateway.ledger.policy import LedgerPolicy
from gateway.notices.policy import NoticePolicy, Recipient, Smtp
from gateway.oidc.provider import IdentityProvider
from gateway.protocol.attribution import NOBODY, AttributionPolicy
from gateway.protocol.body_bounds import BodyBounds
from gateway.proxy.body_budget import BodyBudget
from gateway.proxy.form_spool import FormSpool
from gateway.proxy.snapshot import ConfigSnapshot, RequestLimits
from gateway.routing.affinity import ordered
from gateway.state.background import Background, BackgroundPolicy
from gateway.state.conversations import Conversations
from gateway.state.large_work import LargeWork
from gateway.state.responses import ResponseStore, StatePolicy
from gateway.state.sealing import STATE, CompactionKeys, SealingKeys
from gateway.state.turns import Turns
from gateway.store.store import Store
from gateway.store.store import StoreSettings as StoreOptions
from gateway.upstream.factory import build_transport
from gateway.upstream.health import Health, KeyRing, UpstreamKey
from gateway.upstream.origin import parse_origin
from gateway.upstream.upstream import RequestAdditions, Upstream, UpstreamPolicy
from gateway.upstream.websocket_pool import UpstreamSockets
from gateway.websocket.session import SessionBounds
from gateway.websocket.sockets import SocketPolicy

if TYPE_CHECKING:
    from gateway.observability.otel_metrics import OtelMetrics
    from gateway.observability.tracing import Tracing

_BACKGROUND_SLACK_S: Final = 600.0
"""The time for storing the end of a background response, beyond the times for waiting and running."""
NO_UPSTREAMS: Final[Mapping[str, Upstream]] = MappingProxyType({})


def build_tracing() -> Tracing:
    """Builds the tracer. Raises ImportError without the extra `otel`, and ValueError for invalid OTEL_* variables."""
    from gateway.observability.tracing import Tracing  # noqa: PLC0415 - the SDK is optional, and costs nothing while traces are off

    return Tracing()


def build_otel_metrics(max_series: int) -> OtelMetrics:
    """Builds the meter. Raises ImportError without the extra `otel`, and ValueError for invalid OTEL_* variables."""
    from gateway.observability.otel_metrics import OtelMetrics  # noqa: PLC0415 - the SDK is optional, and costs nothing while metrics are off

    return OtelMetrics(max_series)


def build_snapshot(
    off_loop: OffLoop,
    body_memory: BodyBudget,
    forms: FormSpool,
    settings: Settings,
    keep: Mapping[str, Upstream] = NO_UPSTREAMS,
) -> ConfigSnapshot:
    """Builds the routes, prices and upstreams that requests use. Upstreams in `keep` are used unchanged."""
    upstreams = {
        name: keep[name] if name in keep else build_upstream(name, upstream)
        for name, upstream in settings.upstreams.items()
    }
    limits = RequestLimits(
        max_body_bytes=settings.server.max_body_bytes,
        body_timeout_s=settings.server.body_timeout_s,
        default_max_output_tokens=settings.limits.default_max_output_tokens,
        failover_s=settings.server.failover_s,
        max_duration_ms=int(settings.server.total_timeout_s * 1000),
        reserve_input_tokens=settings.limits.reserve_input_tokens,
        max_tool_calls=settings.limits.max_tool_calls,
        reserve_tool_tokens=settings.limits.reserve_tool_tokens,
        dry_runs_per_minute=settings.limits.dry_runs_per_minute,
        send_max_output_tokens=settings.limits.send_max_output_tokens,
        token_counts_per_minute=settings.limits.token_counts_per_minute,
        charge_unanswered=settings.limits.charge_unanswered,
        charge_failed_input=settings.limits.charge_failed_input,
        on_overrun=settings.limits.on_overrun,
        attribution=attribution_policy(settings),
        unnamed=NOBODY if settings.limits.unnamed_end_users == "together" else "",
        body_bounds=BodyBounds(settings.server.max_text_bytes, settings.server.max_json_values),
    )
    several = any(len(upstream.keys.keys) > 1 for upstream in upstreams.values())
    partial = any(upstream.policy.operations for upstream in upstreams.values())
    return ConfigSnapshot(
        settings.router(),
        upstreams,
        limits,
        off_loop,
        body_memory,
        forms,
        has_several_keys=several,
        offers_differ=partial,
    )


def build_upstream(name: str, settings: UpstreamSettings) -> Upstream:
    """Builds one upstream with its transport, without connecting it.

    Raises ValueError for files that cannot be used.
    """
    config = settings.transport_config()
    origin = parse_origin(settings.base_url)
    return Upstream(
        name,
        (origin.host, origin.port),
        build_transport(config, settings.transport),
        KeyRing(tuple(_upstream_key(settings, number) for number in range(len(settings.api_keys))), _key_order),
        Health(settings.breaker_failures, settings.breaker_open_s, settings.health_max_models),
        UpstreamPolicy(
            max_answer_bytes=settings.max_answer_bytes,
            max_event_bytes=settings.max_event_bytes,
            max_answer_values=settings.max_answer_values,
            on_client_leave=settings.on_client_leave,
            drain_timeout_s=settings.drain_timeout_s,
            key_rest_s=settings.key_rest_s,
            end_wait_s=settings.end_wait_s,
            operations=frozenset(settings.operations or ()),
            ask_for_cost=settings.ask_for_cost,
        ),
        _additions(settings),
        UpstreamSockets(config, settings.max_event_bytes) if settings.websocket else None,
    )


def _additions(settings: UpstreamSettings) -> RequestAdditions | None:
    if not (settings.forward_headers or settings.headers or settings.query):
        return None
    return RequestAdditions(
        tuple(name.encode() for name in settings.forward_headers),
        tuple((name.encode(), value.get_secret_value().encode()) for name, value in settings.headers.items()),
        urlencode({name: value.get_secret_value() for name, value in settings.query.items()}).encode(),
    )


def _key_order(session: str, keys: Sequence[UpstreamKey]) -> Sequence[UpstreamKey]:
    return ordered(session, ((key, 1) for key in keys), lambda key: key.fingerprint)


def _upstream_key(settings: UpstreamSettings, number: int) -> UpstreamKey:
    secret = settings.api_keys[number]
    reload = secret.read_again if isinstance(secret, FileSecret) else None
    return UpstreamKey(
        number, secret.get_secret_value(), reload, max_models=settings.health_max_models, auth=settings.auth
    )


def build_form_spool(settings: Settings) -> FormSpool:
    """Builds the spool of large forms. A disk that takes half of a client's timeout for one slice counts as failed."""
    server = settings.server
    return FormSpool(
        settings.store.data_dir, server.spool_forms_over_bytes, server.max_spooled_bytes, server.body_timeout_s / 2
    )


def store_settings(settings: Settings) -> StoreOptions:
    """Returns how to reach the store that the settings name."""
    store = settings.store
    return StoreOptions(
        url=store.url,
        timeout_s=store.timeout_s,
        connect_timeout_s=store.connect_timeout_s,
        breaker_open_s=store.breaker_open_s,
        max_pending=store.max_pending,
        username=store.username,
        password=store.password.get_secret_value() if store.password else None,
        ca_file=_path(store.ca_file),
    )


def ledger_policy(settings: Settings) -> LedgerPolicy:
    """Returns the ledger's policy that the settings describe."""
    ledger = settings.ledger
    return LedgerPolicy(
        hold_ttl_s=ledger.hold_ttl_s,
        resolution_ttl_s=ledger.resolution_ttl_s,
        journal_retention_s=ledger.journal_retention_s,
        usage_retention_s=ledger.usage_retention_s,
        idempotency_ttl_s=ledger.idempotency_ttl_s,
        on_failure=settings.store.on_failure,
        lease_s=ledger.lease_s,
        unreplicated_max=ledger.unreplicated_max,
        burst=settings.ledger.burst,
        max_end_users=settings.limits.max_end_users,
    )


def _path(path: Path | None) -> str | None:
    return str(path) if path is not None else None


def build_sign_on(settings: Settings, admins: Admins, accounts: Accounts) -> SingleSignOn | None:
    """Returns the sign-in by an identity provider, or None if it is off."""
    config = settings.oidc.client()
    if config is None:
        return None
    return SingleSignOn(
        IdentityProvider(config),
        settings.oidc.grants,
        admins,
        accounts,
        label=settings.oidc.label,
        lasts_s=settings.oidc.lasts_s,
    )


def socket_policy(settings: Settings) -> SocketPolicy:
    """Returns the bounds of WebSocket connections that the settings describe."""
    given = settings.websocket
    return SocketPolicy(
        enabled=given.enabled,
        max_per_key=given.max_per_key,
        max_memory_bytes=given.max_worker_memory_bytes,
        message=WebSocketOptions(given.max_message_bytes, given.compression),
        socket=SocketBounds(given.ping_s, given.write_timeout_s, given.max_unsent_bytes),
        session=SessionBounds(
            max_lanes=given.max_lanes,
            max_queued=given.max_queued,
            max_queued_bytes=given.max_queued_bytes,
            max_memory_bytes=given.max_memory_bytes,
            idle_s=given.idle_s,
            max_age_s=given.max_age_s,
        ),
    )


def build_turns(settings: Settings, store: Store, off_loop: OffLoop) -> Turns:
    """Builds the store of responses and conversations, for routes whose state the gateway keeps."""
    state, max_duration_s = settings.state, settings.server.total_timeout_s
    policy = StatePolicy(
        state.ttl_s,
        state.max_response_bytes,
        state.max_team_bytes,
        state.max_depth,
        state.max_resolved_bytes,
        max_duration_s + _BACKGROUND_SLACK_S,
    )
    in_background = BackgroundPolicy(
        concurrency=state.background_concurrency,
        queue=state.background_queue,
        lease_s=state.background_lease_s,
        max_duration_s=2 * max_duration_s + _BACKGROUND_SLACK_S,
        max_bytes=state.background_max_bytes,
    )
    secrets = [key.get_secret_value().encode() for key in state.encryption_keys]
    sealer = SealingKeys(secrets, STATE) if secrets else None
    large_work = LargeWork(off_loop)
    responses = ResponseStore(store, policy, sealer, large_work)
    return Turns(
        responses,
        Conversations(store, policy, sealer, large_work),
        Background(store, responses, in_background, sealer),
        CompactionKeys(store, secrets),
        state.compact_threshold_tokens,
        state.off_for_teams,
    )


def attribution_policy(settings: Settings) -> AttributionPolicy:
    """Returns the policy of tags and end users that the settings describe."""
    given = settings.attribution
    return AttributionPolicy(
        metadata=frozenset(given.metadata),
        end_users=given.end_users,
        hash_key=given.hash_key.get_secret_value().encode() if given.hash_key else b"",
        max_tags=given.max_tags,
        bounds=f"{given.max_values} {given.max_names} {given.retention_s * 1000}",
    )


def notice_policy(settings: Settings) -> NoticePolicy:
    """Returns the recipients of notices and the bounds of sending that the settings describe."""
    given = settings.notices
    smtp = Smtp(
        given.smtp_host or "",
        given.smtp_port,
        given.smtp_tls,
        given.smtp_username,
        given.smtp_password.get_secret_value() if given.smtp_password else None,
        given.smtp_from or "",
    )
    return NoticePolicy(
        recipients={name: _recipient(name, one) for name, one in settings.recipients.items()},
        smtp=smtp,
        ca_file=_path(given.ca_file),
        every_s=given.every_s,
        timeout_s=given.timeout_s,
        max_attempts=given.max_attempts,
        retry_s=given.retry_s,
        max_waiting=given.max_waiting,
        max_ended=given.max_ended,
    )


def _recipient(name: str, given: RecipientSettings) -> Recipient:
    return Recipient(
        name,
        url=given.webhook.get_secret_value() if given.webhook else "",
        form=given.form,
        keys=tuple(signing_key(secret.get_secret_value()) for secret in given.secrets),
        mail=given.mail,
        teams=frozenset(given.teams),
        budget_percent=given.budget_percent,
        balance_below=tuple(parse_usd(amount) for amount in given.balance_below_usd),
        days_left=given.days_left,
    )


class NoticePolicies:
    """Returns the policy of notices in force. Mutable: the last policy, and the settings from which it was made."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._made_of: Settings | None = None
        self._policy: NoticePolicy | None = None

    def __call__(self) -> NoticePolicy:
        """Returns the policy: the same object until a reload."""
        settings = self._settings()
        if self._policy is None or settings is not self._made_of:
            self._made_of, self._policy = settings, notice_policy(settings)
        return self._policy
