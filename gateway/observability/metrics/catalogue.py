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
        "Of an admitted request, the time that was not spent waiting for an upstream; from its whole body to its end.",
        OVERHEAD_S,
    ),
    Metric(
        "gateway_first_event_seconds",
        "histogram",
        ("route",),
        "From a streamed request's head to the first bytes of its answer's body on their way to the client.",
        WAIT_S,
    ),
    Metric(
        "gateway_request_seconds",
        "histogram",
        ("route", "stream"),
        "From an admitted request's head to its settlement.",
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
        "Of those, what was taken back: a response's usage was seen after it had been charged by an estimate.",
    ),
    Metric(
        "gateway_spend_usd_total",
        "counter",
        ("team", "model"),
        "What was charged, in USD. The journal has the exact amounts.",
    ),
    Metric(
        "gateway_spend_corrections_usd_total",
        "counter",
        ("team", "model"),
        "Of that, what was given back: a response's usage was seen after it had been charged by an estimate.",
    ),
    Metric("gateway_settled_total", "counter", ("settled_by",), "Requests by what they were charged by; `-`: nothing."),
    Metric(
        "gateway_unpriced_usage_total",
        "counter",
        ("model", "what"),
        "Answers with usage that no rate is stated for, such as `tool:x_search`; charged by the nearest dearer one.",
    ),
    Metric(
        "gateway_usage_contradictions_total",
        "counter",
        ("upstream",),
        "Answers whose usage contradicts itself; charged by the dearer reading.",
    ),
    Metric("gateway_overruns_total", "counter", ("model",), "Answers that cost more than was held for them."),
    Metric(
        "gateway_overrun_usd_total",
        "counter",
        ("model",),
        "What the holds of those answers lacked, in USD.",
    ),
    Metric(
        "gateway_costs_missing_total",
        "counter",
        ("upstream",),
        'Answers on routes with `cost_source = "upstream"` that did not say what they cost; charged by their usage.',
    ),
    Metric("gateway_pauses_total", "counter", ("model",), "Those of them that paused their team (`on_overrun`)."),
    Metric(
        "gateway_invalid_keys_total",
        "counter",
        ("reason",),
        "Requests whose API key is not valid: key_expired, secret_ended, team_disabled, unknown_secret, malformed, ...",
    ),
    Metric("gateway_unchecked_total", "counter", (), "Requests that were admitted while the store was away."),
    Metric("gateway_open_requests", "gauge", (), "Requests that talk to an upstream just now."),
    Metric("gateway_requests_waiting", "gauge", (), "Requests that wait for their turn (`queue_s`)."),
    Metric(
        "gateway_queued_requests_total",
        "counter",
        ("result",),
        "Requests that waited for their turn: admitted, refused (they waited too long), left (their client has).",
    ),
    Metric("gateway_queued_seconds_total", "counter", (), "How long all of them waited."),
    Metric("gateway_open_streams", "gauge", (), "Those of them that stream."),
    Metric("gateway_websockets", "gauge", ("state",), "Sockets of WebSocket mode: open (all), busy (a turn runs)."),
    Metric(
        "gateway_websocket_turns_total",
        "counter",
        ("result",),
        "Turns of sockets: answered, refused, warm_up, left (their client has). Each is a request besides.",
    ),
    Metric(
        "gateway_websockets_closed_total",
        "counter",
        ("code",),
        "Sockets that have ended, by the code of RFC 6455, 7.4; 1006: without a close.",
    ),
    Metric("gateway_websocket_memory_bytes", "gauge", (), "What sockets remember of responses that nobody stores."),
    Metric("gateway_holds_open", "gauge", (), "Reservations of running requests."),
    Metric(
        "gateway_holds_expired_total",
        "counter",
        (),
        "Reservations that the reaper voided because their gateway died. Every one is in its team's journal.",
    ),
    Metric("gateway_holds_restored_total", "counter", (), "Reservations of running requests that were made again."),
    Metric(
        "gateway_settlements_posted_again_total",
        "counter",
        (),
        "Settlements that a failover of the store had lost, and that were posted again.",
    ),
    Metric("gateway_settlements_unreplicated", "gauge", (), "Settlements that wait for the store's replicas."),
    Metric(
        "gateway_resolutions_total",
        "counter",
        ("resolution",),
        "What the ledger said to settlements: applied, replayed, late, conflict, unknown.",
    ),
    Metric(
        "gateway_spool_lines_total",
        "counter",
        ("event",),
        "Settlements that the store did not take: spooled to disk, replayed, refused (kept aside), lost (logged).",
    ),
    Metric("gateway_spool_pending", "gauge", (), "Workers with settlements on disk that wait for the store."),
    Metric("gateway_store_seconds", "histogram", ("call",), "What the store took to answer: admit, settle.", STORE_S),
    Metric(
        "gateway_store_dangers",
        "gauge",
        ("danger",),
        "Workers that see a danger in how the store is set up.",
    ),
    Metric("gateway_store_breakers", "gauge", ("state",), "Workers by the state of their breaker to the store."),
    Metric(
        "gateway_upstream_requests_total",
        "counter",
        ("upstream", "result"),
        "Attempts at an upstream, by the status that it answered, or by the fault: connect, tls, cut, ...",
    ),
    Metric(
        "gateway_upstream_seconds",
        "histogram",
        ("upstream",),
        "From an attempt's start to the head of its answer.",
        WAIT_S,
    ),
    Metric("gateway_upstream_breakers", "gauge", ("upstream", "state"), "Workers by the state of their breaker to it."),
    Metric(
        "gateway_upstream_models_down",
        "gauge",
        ("upstream", "state"),
        "Models that an upstream fails to answer, while it answers others: open, half_open; in all workers.",
    ),
    Metric("gateway_upstream_keys_resting", "gauge", ("upstream",), "Keys that rest after a refusal, in all workers."),
    Metric("gateway_upstream_connections", "gauge", ("upstream", "state"), "Connections: open (all), idle (of those)."),
    Metric("gateway_upstream_websockets", "gauge", ("upstream", "state"), "Those that are sockets: open (all), idle."),
    Metric(
        "gateway_upstream_websocket_turns_total",
        "counter",
        ("upstream", "result"),
        "Attempts that went over a socket, by the same results. Where it refuses the upgrade they go by POST.",
    ),
    Metric(
        "gateway_responses_unstored_total",
        "counter",
        (),
        "Responses that should have been stored and could not be. Their clients were told `store: false`.",
    ),
    Metric("gateway_background_responses", "gauge", (), "Background responses that run or wait."),
    Metric(
        "gateway_notices_total",
        "counter",
        ("recipient", "result"),
        "Notices that were sent, attempts that failed, notices given_up after the last attempt, and looks that had "
        "no_room for one.",
    ),
    Metric("gateway_notices_waiting", "gauge", (), "Notices that wait to be sent."),
    Metric("gateway_feed_dropped_total", "counter", (), "Finished requests that live lists had no room for."),
    Metric("gateway_counts_lost_total", "counter", (), "Counts for reports that the store did not take. No money."),
    Metric("gateway_log_lines_dropped_total", "counter", (), "Lines of the log that nobody was there to read."),
    Metric(
        "gateway_admin_sign_ins_total",
        "counter",
        ("result",),
        "Admin keys that were presented to the admin API or the dashboard: right, or wrong (each is logged).",
    ),
    Metric(
        "gateway_background_rounds_total",
        "counter",
        ("work", "result"),
        "Rounds of background work: done, away (what it needs is unavailable), failed (a fault of its own, logged).",
    ),
    Metric(
        "gateway_background_dead",
        "gauge",
        ("work",),
        "Workers in which a piece of background work has completed no round for too long; their /readyz says no.",
    ),
    Metric("gateway_workers", "gauge", ("state",), "Workers that live: ready, or not_ready."),
    Metric("gateway_build_info", "gauge", ("version", "python"), "1, with what runs here."),
)

METRICS: Final = MappingProxyType({metric.name: metric for metric in _ALL})
OTHER: Final = "other"
"""The label for teams and models beyond `server.metrics_max_series`."""


def as_table() -> str:
    """Returns the catalogue as the Markdown table in deploy/metrics.md."""
    rows = [f"| `{one.name}` | {one.kind} | {_words(one.labels)} | {one.text} |" for one in _ALL]
    return "\n".join(["| metric | type | labels | what it says |", "|---|---|---|---|", *rows])


def _words(labels: tuple[str, ...]) -> str:
    return ", ".join(f"`{label}`" for label in labels) or "-"
