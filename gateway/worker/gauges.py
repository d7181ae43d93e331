"""Values that are sampled only when metrics are scraped: the state of the gateway's parts, as `Snapshot`s.

counters(...)             counts that the parts keep themselves; they outlive their worker
gauges(...), requests()   the present state; it ends with its worker
ended_sockets(...), open_sockets(...)   the same two for WebSocket mode
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from gateway.accounts.admin_keys import Admins
from gateway.concurrency.periodic import Periodic
from gateway.ledger.ledger import Ledger
from gateway.ledger.spool import Spool
from gateway.notices.notices import Notices
from gateway.observability.metrics.counters import Snapshot, Value
from gateway.observability.request_log import RequestLog
from gateway.proxy.background_runner import BackgroundRunner
from gateway.reporting.request_reporter import RequestReporter
from gateway.state.turns import Turns
from gateway.store.durability import DANGERS
from gateway.store.store import Store
from gateway.upstream.health import Condition
from gateway.upstream.upstream import Upstream
from gateway.websocket.sockets import Sockets
from gateway.worker.store_inspection import StoreInspection


def counters(
    ledger: Ledger,
    spool: Spool,
    reporter: RequestReporter,
    log: RequestLog,
    admins: Admins,
    periodics: tuple[Periodic, ...],
) -> Snapshot:
    """Returns what the parts and the background work have counted since this worker started."""
    return {
        "gateway_holds_expired_total": {(): ledger.upkeep.expired},
        "gateway_holds_restored_total": {(): ledger.upkeep.restored},
        "gateway_settlements_posted_again_total": {(): ledger.upkeep.posted_again},
        "gateway_resolutions_total": {
            (resolution.name.lower(),): count for resolution, count in ledger.resolutions.items()
        },
        "gateway_spool_lines_total": {
            ("spooled",): spool.spooled,
            ("replayed",): spool.replayed,
            ("refused",): spool.refused,
            ("lost",): spool.lost,
        },
        "gateway_feed_dropped_total": {(): reporter.dropped},
        "gateway_counts_lost_total": {(): reporter.lost},
        "gateway_queued_requests_total": {(result,): count for result, count in ledger.queue.results.items()},
        "gateway_queued_seconds_total": {(): ledger.queue.waited_s},
        "gateway_log_lines_dropped_total": {(): log.dropped},
        "gateway_admin_sign_ins_total": {(result,): count for result, count in admins.sign_ins.items()},
        "gateway_background_rounds_total": {
            (work.name, result): count for work in periodics for result, count in work.rounds.items()
        },
    }


def background(periodics: tuple[Periodic, ...], now_s: float) -> Snapshot:
    """Returns which background work is dead. `now_s` is the event loop's time."""
    return {"gateway_background_dead": {(work.name,): int(work.is_dead(now_s)) for work in periodics}}


def gauges(
    store: Store, ledger: Ledger, spool: Spool, upstreams: Mapping[str, Upstream], *, ready: bool, now_s: float
) -> Snapshot:
    """Returns the state of the store, the ledger and the upstreams. `now_s` is the event loop's time."""
    breakers: dict[tuple[str, ...], Value] = {}
    resting: dict[tuple[str, ...], Value] = {}
    connections: dict[tuple[str, ...], Value] = {}
    sockets: dict[tuple[str, ...], Value] = {}
    failing: dict[tuple[str, ...], Value] = {}
    for name, upstream in upstreams.items():
        condition = upstream.health.whole.condition(now_s)
        breakers |= {(name, state.value): int(state is condition) for state in Condition}
        resting[name,] = sum(key.rests_until_s > now_s or bool(key.resting_models(now_s)) for key in upstream.keys.keys)
        models = Counter(found.condition for found in upstream.health.models(now_s))
        failing |= {(name, state.value): models[state] for state in (Condition.OPEN, Condition.HALF_OPEN)}
        connections[name, "open"], connections[name, "idle"] = upstream.connections
        if upstream.sockets is not None:
            sockets[name, "open"], sockets[name, "idle"] = len(upstream.sockets), upstream.sockets.idle
    return {
        "gateway_holds_open": {(): ledger.open_holds},
        "gateway_requests_waiting": {(): ledger.queue.waiting},
        "gateway_settlements_unreplicated": {(): ledger.unreplicated},
        "gateway_spool_pending": {(): int(spool.pending)},
        "gateway_store_breakers": {("closed",): int(store.available), ("open",): int(not store.available)},
        "gateway_upstream_breakers": breakers,
        "gateway_upstream_keys_resting": resting,
        "gateway_upstream_connections": connections,
        "gateway_upstream_websockets": sockets,
        "gateway_upstream_models_down": failing,
        "gateway_workers": {("ready",): int(ready), ("not_ready",): int(not ready)},
    }


def dangers(inspection: StoreInspection) -> Snapshot:
    """Returns the dangers of the store, as this worker sees them."""
    found = inspection.dangers
    return {"gateway_store_dangers": {(name,): int(name in found) for name in DANGERS}}


def requests(running: int, streams: int) -> Snapshot:
    """Returns the number of running requests and open streams."""
    return {"gateway_open_requests": {(): running}, "gateway_open_streams": {(): streams}}


def open_sockets(sockets: Sockets) -> Snapshot:
    """Returns the number of sockets, and what they remember."""
    return {
        "gateway_websockets": {("open",): sockets.count, ("busy",): sockets.busy},
        "gateway_websocket_memory_bytes": {(): sockets.memory_bytes},
    }


def ended_sockets(sockets: Sockets) -> Snapshot:
    """Returns the counts of turns and of sockets that have ended."""
    return {
        "gateway_websocket_turns_total": {(result,): count for result, count in sockets.turns.items()},
        "gateway_upstream_websocket_turns_total": dict(sockets.upstream_turns.items()),
        "gateway_websockets_closed_total": {(str(code),): count for code, count in sockets.closed.items()},
    }


def unstored(turns: Turns | None) -> Snapshot:
    """Returns how many responses could not be stored."""
    return {"gateway_responses_unstored_total": {(): 0 if turns is None else turns.unstored}}


def background_responses(runner: BackgroundRunner | None) -> Snapshot:
    """Returns how many background responses run and wait in this worker."""
    return {"gateway_background_responses": {(): 0 if runner is None else runner.running}}


def notices(sent: Notices) -> Snapshot:
    """Returns what became of this worker's attempts to send notices."""
    return {"gateway_notices_total": dict(sent.results.items())}


def waiting_notices(sent: Notices) -> Snapshot:
    """Returns how many notices wait, in the worker whose turn it is to send them."""
    return {"gateway_notices_waiting": {(): sent.waiting}}
