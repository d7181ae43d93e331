"""The record of one request. It never holds prompts, answers or secrets.

`RequestRecord` is the one mutable value that passes through all steps of a request; each step fills in its part. What
the log writes of it is in log_fields.py. `Trace` is the interface that tracing.py implements where tracing is on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, Protocol

from gateway.accounts.limit_names import with_pattern
from gateway.billing.lifecycle import Outcome, State
from gateway.billing.settlement import Settlement
from gateway.errors import JsonScalar
from gateway.identity.api_keys import ApiKey
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

    @property
    def limit(self) -> str:
        """The name of the limit that refused, with the pattern of its models if it has one, or ""."""
        return with_pattern(str(self.explain.get("limit") or ""), str(self.explain.get("model_pattern") or ""))

    @property
    def scope(self) -> str:
        """Whose limit it was, or ""."""
        return str(self.explain.get("scope") or "")


Attempt = tuple[str, str, float]
"""The name of an upstream, the status or fault of its answer, and the duration in seconds."""


class Closable(Protocol):
    """What is held for a request until its end."""

    def close(self) -> None:
        """It is not wanted any more. Idempotent."""


class Trace(Protocol):
    """One request's part of a distributed trace. `trace_id` is hexadecimal, or None where the SDK is disabled."""

    trace_id: str | None

    def attempt(self, upstream: str, host: str, port: int, model: str, max_output_tokens: int | None) -> Headers:
        """Starts an attempt at an upstream. Returns the headers to send to it."""

    def end(self, record: RequestRecord) -> None:
        """Ends the trace of the request."""


NO_KEY: Final = ApiKey("", "", "")
"""Stands for the key of a request that has named none yet."""


@dataclass(slots=True)
class Times:
    """When a request came to its steps, as `time.perf_counter()` in seconds. None: it did not come so far."""

    started: float = field(default_factory=time.perf_counter)
    received: float | None = None  # the whole body has arrived
    routed: float | None = None  # the store is asked for admission
    admitted: float | None = None
    opened: float | None = None
    first_byte: float | None = None
    relayed: float | None = None  # the answer was sent, and settlement starts
    ended: float | None = None

    def in_ms(self) -> dict[str, float]:
        """Returns the times so far in ms since the request's head, under the names that the log has for them."""
        started = self.started
        times = zip(_TIME_NAMES, _times_of(self), strict=True)
        # Rounded to the microsecond without round(), which formats the number as text to find its digits.
        return {name: ((at - started) * 1e6 + 0.5) // 1 / 1e3 for name, at in times if at is not None}


@dataclass(slots=True)
class UpstreamRecord:
    """Which upstreams were asked, and which one answered.

    `name`: the one that answered, or was asked last. `status`, `request_id`: of its answer. `chosen_by`: the rule that
    ordered the candidates, if it is not the configuration's order. `tried`: `name#number of its key`.
    """

    name: str | None = None
    status: int | None = None
    request_id: str | None = None
    chosen_by: str | None = None
    tried: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)


@dataclass(slots=True)
class RequestRecord:
    """The record of one request.

    `early_refusal`: the status of a refusal that was told in a stream which had begun before it. `asked_model`: as the
    client wrote it; `answered_model`: as the answer names it. `body_held_bytes`: of the worker's memory of bodies.
    `spooled_form`: the body, if it is a large form. `queued_ms`: for how long it waited for its turn. `day`: of a
    refused request, in its team's time zone: days after 1970-01-01; -1: as in UTC. `tags`: as its hold has
    them.
    """

    request_id: str
    method: str = "POST"
    path: str = "/v1/responses"
    route: str = "/v1/responses"
    client: str = ""
    key: ApiKey = NO_KEY
    times: Times = field(default_factory=Times)
    upstream: UpstreamRecord = field(default_factory=UpstreamRecord)
    state: State = State.RECEIVED
    status: int = 0
    early_refusal: int | None = None
    code: str | None = None
    refusal: ErrorSummary | None = None
    day: int = -1
    detail: str | None = None
    asked_model: str | None = None
    model: str | None = None
    answered_model: object = None
    response_id: str | None = None
    stream: bool = False
    outcome: Outcome = Outcome.REFUSED
    settlement: Settlement | None = None
    spooled: bool = False
    unchecked: bool = False
    bytes_in: int = 0
    bytes_out: int = 0
    body_held_bytes: int = 0
    spooled_form: Closable | None = None
    queued_ms: int | None = None
    tags: str = ""
    rates: Rates = NO_RATES
    trace: Trace | None = None


_TIME_NAMES: Final = ("received_ms", "routed_ms", "admit_ms", "open_ms", "first_byte_ms", "relayed_ms", "total_ms")
_times_of: Final = attrgetter("received", "routed", "admitted", "opened", "first_byte", "relayed", "ended")
