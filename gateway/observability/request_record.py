"""The record of one request. It never holds prompts, answers or secrets.

`RequestRecord` is the one mutable value that passes through all steps of a request; each step fills in its part.
`Trace` is the interface that tracing.py implements where tracing is on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, Protocol

from gateway.billing.lifecycle import Outcome, State
from gateway.billing.money import format_usd
from gateway.billing.settlement import Settlement
from gateway.errors import JsonScalar
from gateway.protocol.rate_limit_headers import NO_RATES, Rates
from gateway.types import Headers


def new_request_id() -> str:
    """Returns a new request id, for the answer's `x-request-id`, the hold and the log line."""
    return f"req_{os.urandom(16).hex()}"


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """What one of the gateway's own errors told the client. The exception itself would keep its traceback alive.

    `reason` is the word of its cause, for metrics.
    """

    message: str
    explain: Mapping[str, JsonScalar]
    reason: str = ""


Attempt = tuple[str, str, float]
"""The name of an upstream, the status or fault of its answer, and the duration in seconds."""


class Trace(Protocol):
    """One request's part of a distributed trace. `trace_id` is hexadecimal, or None where the SDK is disabled."""

    trace_id: str | None

    def attempt(self, upstream: str, host: str, port: int, model: str, max_output_tokens: int | None) -> Headers:
        """Starts an attempt at an upstream. Returns the headers to send to it."""

    def end(self, record: RequestRecord) -> None:
        """Ends the trace of the request."""


@dataclass(slots=True)
class RequestRecord:
    """The record of one request. Times are `time.perf_counter()` in seconds."""

    request_id: str
    method: str = "POST"
    path: str = "/v1/responses"
    route: str = "/v1/responses"
    client: str = ""
    started: float = field(default_factory=time.perf_counter)
    state: State = State.RECEIVED
    status: int = 0
    early_refusal: int | None = None  # the status of a refusal that was told in a stream which had begun before it
    code: str | None = None
    refusal: ErrorSummary | None = None
    team_id: str | None = None
    key_id: str | None = None
    secret_hash: str | None = None
    asked_model: str | None = None  # as the client wrote it
    model: str | None = None
    answered_model: object = None  # as the answer names it
    stream: bool = False
    upstream: str | None = None
    upstream_status: int | None = None
    upstream_request_id: str | None = None
    response_id: str | None = None
    chosen_by: str | None = None  # the rule that ordered the candidates, where it is not the configuration's order
    tried: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    detail: str | None = None
    outcome: Outcome = Outcome.REFUSED
    settlement: Settlement | None = None
    spooled: bool = False
    unchecked: bool = False
    bytes_in: int = 0
    body_held_bytes: int = 0  # of the worker's memory of bodies
    bytes_out: int = 0
    received: float | None = None  # the whole body has arrived
    queued_ms: int | None = None  # for how long it waited for its turn
    routed: float | None = None  # the store is asked for admission
    admitted: float | None = None
    opened: float | None = None
    first_byte: float | None = None
    relayed: float | None = None  # the answer was sent, and settlement starts
    ended: float | None = None
    rates: Rates = NO_RATES
    trace: Trace | None = None

    def line(self, stamp: str = "") -> dict[str, Any]:
        """Returns the fields of the log line, without those that do not apply."""
        fields: dict[str, Any] = {
            "timestamp": stamp,
            "level": "info",
            "event": "request",
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "outcome": self.outcome,
            "state": self.state,
            "code": self.code,
            "team_id": self.team_id,
            "key_id": self.key_id,
            "model": self.model,
            "stream": self.stream,
            "upstream": self.upstream,
            "upstream_status": self.upstream_status,
            "upstream_request_id": self.upstream_request_id,
            "response_id": self.response_id,
            "chosen_by": self.chosen_by,
            "queued_ms": self.queued_ms,
            "detail": self.detail,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
        }
        for name in _OPTIONAL:
            if fields[name] is None:
                del fields[name]
        if self.trace is not None:
            fields["trace_id"] = self.trace.trace_id
        if self.client:
            fields["client"] = self.client
        if self.tried:
            fields["tried"] = self.tried
        if self.spooled:
            fields["spooled"] = True
        if self.unchecked:
            fields["unchecked"] = True
        fields |= self.timings()
        settlement = self.settlement
        if settlement is not None:
            usage = settlement.usage
            fields["settled_by"] = settlement.settled_by
            fields["cost_usd"] = format_usd(settlement.cost_nano_usd)
            fields["input_tokens"] = usage.input_tokens
            fields["cached_input_tokens"] = usage.cached_input_tokens
            fields["output_tokens"] = usage.output_tokens
            fields["reasoning_tokens"] = usage.reasoning_tokens
            if settlement.unpriced or settlement.lacks_cost or usage.quantities is not None or settlement.over_nano_usd:
                fields |= _oddities(settlement)
        return fields

    def timings(self) -> dict[str, float]:
        """Returns the moments so far in ms since the request's head."""
        started = self.started
        times = zip(_MARKS, _marks(self), strict=True)
        # Rounded to the microsecond without round(), which formats the number as text to find its digits.
        return {name: ((at - started) * 1e6 + 0.5) // 1 / 1e3 for name, at in times if at is not None}


def _oddities(settlement: Settlement) -> dict[str, Any]:
    """Returns what is unusual about a settlement and worth a look."""
    quantities = settlement.usage.quantities
    found = {
        "contradictions": () if quantities is None else quantities.contradictions,
        "unpriced": settlement.unpriced,
        "over_hold_usd": format_usd(settlement.over_nano_usd) if settlement.over_nano_usd else None,
        "cost_missing": settlement.lacks_cost,
    }
    return {name: value for name, value in found.items() if value}


# fmt: off
_OPTIONAL: Final = (
    "code", "team_id", "key_id", "model", "upstream", "upstream_status", "upstream_request_id", "response_id",
    "chosen_by", "queued_ms", "detail",
)


_MARKS: Final = ("received_ms", "routed_ms", "admit_ms", "open_ms", "first_byte_ms", "relayed_ms", "total_ms")


# fmt: on
_marks: Final = attrgetter("received", "routed", "admitted", "opened", "first_byte", "relayed", "ended")
