"""The counters of one worker.

    note(record)              counts a finished model request; the one call on the warm path
    note_answer(route, ...)   counts an answer of another route
    snapshot()                returns everything so far as a `Snapshot`

A `Snapshot` is {metric: {label values: number, or [bucket counts..., sum] of a histogram}}. Snapshots add up: the
gateway's snapshot is the sum of its workers' snapshots.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable
from typing import Final, TypeVar

from gateway.billing.lifecycle import Outcome
from gateway.billing.settlement import Settlement
from gateway.observability.metrics.catalogue import METRICS, OTHER
from gateway.observability.request_record import RequestRecord

_K = TypeVar("_K", bound=Hashable)
Labels = tuple[str, ...]
Value = int | float | list[int | float]
Snapshot = dict[str, dict[Labels, Value]]

STREAMED = ("false", "true")
_CHARGED: Final = 5
"""What is counted of a charge: the cost, and tokens of four kinds. Behind them stands what was taken back of each."""


class Histogram:
    """Counts of durations by bucket, and their sum, for one set of labels. Mutable."""

    __slots__ = ("_bounds", "counts", "sum_s")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Counts a duration. A bucket includes its upper bound."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.sum_s += seconds


class Histograms(dict[Labels, Histogram]):
    """The histograms of one metric by set of labels, created on first use."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._bounds = METRICS[name].buckets

    def __missing__(self, labels: Labels) -> Histogram:
        """Creates the histogram of a new set of labels."""
        created = self[labels] = Histogram(self._bounds)
        return created


class Counters:
    """One worker's counters since its start. Mutable; only the event loop's thread writes.

    `max_series` bounds the pairs of team and model. Pairs beyond it count as "other".
    """

    def __init__(self, max_series: int) -> None:
        self._max_series = max_series
        self._requests: dict[tuple[str, int, Outcome | str, str | None], int] = {}
        self._settled: dict[str, int] = {}
        self._spent: dict[tuple[str, str], list[int]] = {}
        self._attempts: dict[tuple[str, str], int] = {}
        self._invalid_keys: dict[str, int] = {}
        self._unchecked = 0
        self._unpriced: dict[tuple[str, str], int] = {}
        self._contradictions: dict[str, int] = {}
        self._overruns: dict[str, int] = {}
        self._overrun_nano_usd: dict[str, int] = {}
        self._pauses: dict[str, int] = {}
        self._costs_missing: dict[str, int] = {}
        self._overhead = Histograms("gateway_overhead_seconds")
        self._first_event = Histograms("gateway_first_event_seconds")
        self._total = Histograms("gateway_request_seconds")
        self._store = Histograms("gateway_store_seconds")
        self._upstream = Histograms("gateway_upstream_seconds")

    def note(self, record: RequestRecord) -> None:
        """Counts a finished model request."""
        self._count(record.route, record.status, record.outcome, record.code)
        if record.code == "invalid_api_key" and record.refusal is not None:
            reason = record.refusal.reason
            self._invalid_keys[reason] = self._invalid_keys.get(reason, 0) + 1
        waited_s = 0.0
        for upstream, result, seconds in record.upstream.attempts:
            waited_s += seconds
            pair = (upstream, result)
            self._attempts[pair] = self._attempts.get(pair, 0) + 1
            self._upstream[upstream,].observe(seconds)
        if record.times.routed is not None and record.times.admitted is not None:
            self._store["admit",].observe(record.times.admitted - record.times.routed)
        if record.settlement is not None:
            self._note_settled(record, waited_s)

    def note_answer(self, route: str, status: int, code: str | None) -> None:
        """Counts an answer of another route."""
        self._count(route, status, "answered" if code is None else Outcome.REFUSED, code)

    def _count(self, route: str, status: int, outcome: Outcome | str, code: str | None) -> None:
        key = (route, status, outcome, code)
        self._requests[key] = self._requests.get(key, 0) + 1

    def _note_settled(self, record: RequestRecord, waited_s: float) -> None:
        settlement, route, times = record.settlement, record.route, record.times
        if settlement is None or times.ended is None:
            return
        if times.relayed is not None:
            if times.opened is not None:
                waited_s += times.relayed - times.opened
            began = times.started if times.received is None else times.received
            self._overhead[route,].observe(max(0.0, times.ended - began - waited_s))
            self._store["settle",].observe(times.ended - times.relayed)
        if record.stream and times.first_byte is not None:
            self._first_event[route,].observe(times.first_byte - times.started)
        self._total[route, STREAMED[record.stream]].observe(times.ended - times.started)
        self._unchecked += record.unchecked
        self._settled[settlement.settled_by] = self._settled.get(settlement.settled_by, 0) + 1
        if settlement.kind == "settle":
            usage = settlement.usage
            charged = settlement.cost_nano_usd, *usage[:4]
            totals = self._totals(settlement.hold.team_id, settlement.model)
            for place, amount in enumerate(charged):
                if amount < 0:  # a correction; a counter must not fall
                    totals[_CHARGED + place] -= amount
                else:
                    totals[place] += amount
            if settlement.unpriced or settlement.lacks_cost or usage.quantities is not None or settlement.over_nano_usd:
                self._note_unusual(settlement)

    def _note_unusual(self, settlement: Settlement) -> None:
        model, quantities, over = settlement.model, settlement.usage.quantities, settlement.over_nano_usd
        for what in settlement.unpriced:
            self._add(self._unpriced, (model, what), 1)
        if quantities is not None and quantities.contradictions:
            self._add(self._contradictions, settlement.upstream, 1)
        if over:
            self._add(self._overruns, model, 1)
            self._add(self._overrun_nano_usd, model, over)
        if settlement.pauses:
            self._add(self._pauses, model, 1)
        if settlement.lacks_cost:
            self._add(self._costs_missing, settlement.upstream, 1)

    def _add(self, counts: dict[_K, int], key: _K, number: int) -> None:
        """Counts under a name that came from outside. Names beyond the bound are not kept."""
        if key in counts or len(counts) < self._max_series:
            counts[key] = counts.get(key, 0) + number

    def _totals(self, team: str, model: str) -> list[int]:
        totals = self._spent.get((team, model))
        if totals is None:
            pair = (team, model) if len(self._spent) < self._max_series else (OTHER, OTHER)
            totals = self._spent.setdefault(pair, [0] * 2 * _CHARGED)
        return totals

    def snapshot(self) -> Snapshot:
        """Returns all counts under the catalogue's names."""
        spent = self._spent.items()
        tokens = tuple(enumerate(("input", "cached_input", "output", "reasoning"), 1))
        return {
            "gateway_requests_total": {
                (route, str(status), str(outcome), code or ""): count
                for (route, status, outcome, code), count in self._requests.items()
            },
            "gateway_tokens_total": {(*pair, kind): totals[place] for pair, totals in spent for place, kind in tokens},
            "gateway_token_corrections_total": {
                (*pair, kind): totals[_CHARGED + place] for pair, totals in spent for place, kind in tokens
            },
            "gateway_spend_usd_total": {pair: totals[0] for pair, totals in spent},
            "gateway_spend_corrections_usd_total": {pair: totals[_CHARGED] for pair, totals in spent},
            "gateway_settled_total": {(by,): count for by, count in self._settled.items()},
            "gateway_unpriced_usage_total": dict(self._unpriced.items()),
            "gateway_usage_contradictions_total": {(name,): count for name, count in self._contradictions.items()},
            "gateway_overruns_total": {(name,): count for name, count in self._overruns.items()},
            "gateway_overrun_usd_total": {(name,): nano for name, nano in self._overrun_nano_usd.items()},
            "gateway_costs_missing_total": {(name,): count for name, count in self._costs_missing.items()},
            "gateway_pauses_total": {(name,): count for name, count in self._pauses.items()},
            "gateway_invalid_keys_total": {(reason,): count for reason, count in self._invalid_keys.items()},
            "gateway_unchecked_total": {(): self._unchecked},
            "gateway_upstream_requests_total": dict(self._attempts.items()),
            "gateway_overhead_seconds": _values(self._overhead),
            "gateway_first_event_seconds": _values(self._first_event),
            "gateway_request_seconds": _values(self._total),
            "gateway_store_seconds": _values(self._store),
            "gateway_upstream_seconds": _values(self._upstream),
        }


def _values(histograms: Histograms) -> dict[Labels, Value]:
    return {labels: [*found.counts, found.sum_s] for labels, found in histograms.items()}


def added(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Returns the sum of snapshots. A metric's histograms have the same buckets in all of them."""
    total: Snapshot = {}
    for snapshot in snapshots:
        for name, series in snapshot.items():
            totals = total.setdefault(name, {})
            for labels, value in series.items():
                totals[labels] = _plus(totals[labels], value) if labels in totals else value
    return total


def _plus(one: Value, other: Value) -> Value:
    if isinstance(one, list):
        return [first + second for first, second in zip(one, other, strict=True)] if isinstance(other, list) else one
    return one if isinstance(other, list) else one + other
