"""Every metric as data. The values of all workers are added up, and so a gauge is a sum too.

Amounts are integers in nano-USD internally. A metric whose name ends in `_usd_total` is divided when it is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]

OVERHEAD_S: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
STORE_S: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0)
WAIT_S: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOTAL_S: Final = (*WAIT_S, 600.0, 1800.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `buckets` are a histogram's upper bounds in seconds, without the last one, +Inf."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    text: str
    buckets: tuple[float, ...] = ()


_ALL: Final = (
    Metric(
        "gateway_requests_total",
        "counter",
        ("route", "status", "outcome", "code"),
        "Requests that have ended. `code`: the gateway's own error, or empty. `status` 0: the client left first.",
    ),
    Metric(
        "gateway_overhead_seconds",
        "histogram",
        ("route",),
        "The time of an admitted request from its complete body to its end, without the time that its upstream took.",
        OVERHEAD_S,
    ),
    Metric(
        "gateway_first_event_seconds",
        "histogram",
        ("route",),
        "The time from the head of a streamed request to the first bytes of its answer's body for the client.",
        WAIT_S,
    ),
    Metric(
        "gateway_request_seconds",
        "histogram",
        ("route", "stream"),
        "The time from the head of an admitted request to its settlement.",
        TOTAL_S,
    ),
    Metric(
        "gateway_tokens_total",
        "counter",
        ("team", "model", "kind"),
        "Tokens that were charged. `kind`: input, cached_input (part of input), output, reasoning (part of output).",
    ),
    Metric(
        "gateway_token_corrections_total",
        "counter",
        ("team", "model", "kind"),
        "Tokens that were charged by an estimate and taken back, because the response's usage became known later.",
    ),
    Metric(
        "gateway_spend_usd_total",
        "counter",
        ("team", "model"),
        "The amount that was charged, in USD. The journal has the exact amounts.",
    ),
    Metric(
        "gateway_spend_corrections_usd_total",
        "counter",
        ("team", "model"),
        "The amount that was charged by an estimate and given back, because the response's usage became known later.",
    ),
    Metric(
        "gateway_settled_total",
        "counter",
        ("settled_by",),
        "Requests by what their charge was based on. `-`: nothing was charged.",
    ),
    Metric(
        "gateway_unpriced_usage_total",
        "counter",
        ("model", "what"),
        "Answers with usage that has no rate, such as `tool:x_search`. They are charged by the nearest higher rate.",
    ),
    Metric(
        "gateway_usage_contradictions_total",
        "counter",
        ("upstream",),
        "Answers whose usage contradicts itself. They are charged by the reading that costs more.",
    ),
    Metric("gateway_overruns_total", "counter", ("model",), "Answers that cost more than was held for them."),
    Metric(
        "gateway_overrun_usd_total",
        "counter",
        ("model",),
        "By how much answers cost more than was held for them, in USD.",
    ),
    Metric(
        "gateway_costs_missing_total",
        "counter",
        ("upstream",),
        'Answers on routes with `cost_source = "upstream"` without a stated cost. They are charged by their usage.',
    ),
    Metric(
        "gateway_pauses_total",
        "counter",
        ("model",),
        "Answers that cost more than was held for them and paused their team (`on_overrun`).",
    ),
    Metric(
        "gateway_invalid_keys_total",
        "counter",
        ("reason",),
        "Requests whose API key is not valid: key_expired, secret_ended, team_disabled, unknown_secret, malformed, ...",
    ),
    Metric(
        "gateway_unchecked_total",
        "counter",
        (),
        "Requests that were admitted unchecked while the store was unavailable.",
    ),
    Metric("gateway_open_requests", "gauge", (), "Requests that are being served by an upstream."),
    Metric("gateway_requests_waiting", "gauge", (), "Requests that wait in the queue of their team (`queue_s`)."),
    Metric(
        "gateway_queued_requests_total",
        "counter",
        ("result",),
        "Requests that have waited in a queue: admitted, refused (they waited too long), left (the client left).",
    ),
    Metric("gateway_queued_seconds_total", "counter", (), "The total time that requests have waited in a queue."),
    Metric("gateway_open_streams", "gauge", (), "Open requests whose answers are streamed."),
    Metric(
        "gateway_websockets", "gauge", ("state",), "Sockets of WebSocket mode: open (all), busy (with a running turn)."
    ),
    Metric(
        "gateway_websocket_turns_total",
        "counter",
        ("result",),
        "Turns on sockets: answered, refused, warm_up, left (the client left). Each one also counts as a request.",
    ),
    Metric(
        "gateway_websockets_closed_total",
        "counter",
        ("code",),
        "Sockets that have ended, by their close code (RFC 6455, 7.4). 1006 means without a close frame.",
    ),
    Metric(
        "gateway_websocket_memory_bytes",
        "gauge",
        (),
        "The memory for responses that are kept for sockets because nobody stores them.",
    ),
    Metric("gateway_holds_open", "gauge", (), "Holds of running requests."),
    Metric(
        "gateway_holds_expired_total",
        "counter",
        (),
        "Holds that were voided because their gateway died. Each one is in its team's journal.",
    ),
    Metric(
        "gateway_holds_restored_total",
        "counter",
        (),
        "Holds of running requests that the store had lost and that were reserved again.",
    ),
    Metric(
        "gateway_settlements_posted_again_total",
        "counter",
        (),
        "Settlements that a failover of the store had lost and that were posted again.",
    ),
    Metric("gateway_settlements_unreplicated", "gauge", (), "Settlements that wait for the store's replicas."),
    Metric(
        "gateway_resolutions_total",
        "counter",
        ("resolution",),
        "Settlements by the ledger's result: applied, replayed, late, conflict, unknown.",
    ),
    Metric(
        "gateway_spool_lines_total",
        "counter",
        ("event",),
        "Settlements that the store did not accept: spooled (to disk), replayed, refused (kept aside), lost (logged).",
    ),
    Metric("gateway_spool_pending", "gauge", (), "Workers with settlements on disk that wait for the store."),
    Metric(
        "gateway_store_seconds",
        "histogram",
        ("call",),
        "The time that the store took to answer: admit, settle.",
        STORE_S,
    ),
    Metric(
        "gateway_store_dangers",
        "gauge",
        ("danger",),
        "Workers that have found a danger in the store's configuration.",
    ),
    Metric(
        "gateway_store_breakers", "gauge", ("state",), "Workers by the state of their circuit breaker for the store."
    ),
    Metric(
        "gateway_upstream_requests_total",
        "counter",
        ("upstream", "result"),
        "Attempts at an upstream, by the status of the answer or by the fault: connect, tls, cut, ...",
    ),
    Metric(
        "gateway_upstream_seconds",
        "histogram",
        ("upstream",),
        "The time from the start of an attempt to the head of its answer.",
        WAIT_S,
    ),
    Metric(
        "gateway_upstream_breakers",
        "gauge",
        ("upstream", "state"),
        "Workers by the state of their circuit breaker for the upstream.",
    ),
    Metric(
        "gateway_upstream_models_down",
        "gauge",
        ("upstream", "state"),
        "Models whose breaker is open or half_open while the upstream answers for others; the sum of all workers.",
    ),
    Metric(
        "gateway_upstream_keys_resting",
        "gauge",
        ("upstream",),
        "Keys that are not used for a while after a refusal; the sum of all workers.",
    ),
    Metric(
        "gateway_upstream_connections",
        "gauge",
        ("upstream", "state"),
        "Connections to an upstream: open (all), idle (of those).",
    ),
    Metric(
        "gateway_upstream_websockets",
        "gauge",
        ("upstream", "state"),
        "WebSocket connections to an upstream: open (all), idle (of those).",
    ),
    Metric(
        "gateway_upstream_websocket_turns_total",
        "counter",
        ("upstream", "result"),
        "Attempts that went over a WebSocket connection, by result. An upstream that refuses the upgrade gets a POST.",
    ),
    Metric(
        "gateway_responses_unstored_total",
        "counter",
        (),
        "Responses that should have been stored and could not be. The answer says `store: false`.",
    ),
    Metric("gateway_background_responses", "gauge", (), "Background responses that run or wait."),
    Metric(
        "gateway_notices_total",
        "counter",
        ("recipient", "result"),
        "Notices by result: sent, failed (an attempt), given_up (after the last attempt), no_room (for more).",
    ),
    Metric("gateway_notices_waiting", "gauge", (), "Notices that wait to be sent."),
    Metric(
        "gateway_feed_dropped_total",
        "counter",
        (),
        "Finished requests that were left out of live lists, because they came too fast.",
    ),
    Metric(
        "gateway_counts_lost_total",
        "counter",
        (),
        "Counts for reports that the store did not accept. They concern no money.",
    ),
    Metric(
        "gateway_log_lines_dropped_total",
        "counter",
        (),
        "Log lines that were dropped, because nothing read them in time.",
    ),
    Metric(
        "gateway_admin_sign_ins_total",
        "counter",
        ("result",),
        "Admin keys that were presented to the admin API or the dashboard: right, wrong (logged).",
    ),
    Metric(
        "gateway_background_rounds_total",
        "counter",
        ("work", "result"),
        "Rounds of background work: done, away (something it needs is unavailable), failed (logged).",
    ),
    Metric(
        "gateway_background_dead",
        "gauge",
        ("work",),
        "Workers whose background work has completed no round for too long. Their /readyz answers 503.",
    ),
    Metric("gateway_workers", "gauge", ("state",), "Running workers: ready, not_ready."),
    Metric("gateway_build_info", "gauge", ("version", "python"), "Always 1; the labels say which version runs."),
)

METRICS: Final = MappingProxyType({metric.name: metric for metric in _ALL})
OTHER: Final = "other"
"""The label for teams and models beyond `server.metrics_max_series`."""


def as_table() -> str:
    """Returns the catalogue as the Markdown table in deploy/metrics.md."""
    rows = [f"| `{one.name}` | {one.kind} | {_words(one.labels)} | {one.text} |" for one in _ALL]
    return "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows])


def _words(labels: tuple[str, ...]) -> str:
    return ", ".join(f"`{label}`" for label in labels) or "-"
