"""Step 9: what is written down about a request: one structured line, and the counters.

`Record` is the line in the making: the one mutable value that goes down the request line, each step filling in its
part. It never holds prompts, answers or secrets. `Trace` is what tracing.py makes of it, where that is on.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, Protocol, TextIO

import orjson
import structlog

from gateway.errors import JsonScalar
from gateway.exchange import Outcome, Settlement, State
from gateway.ledger.rates import NO_RATES, Rates
from gateway.money import format_usd


def new_request_id() -> str:
    """A name for a request, for its answer's `x-request-id`, its hold and its log line."""
    return f"req_{os.urandom(16).hex()}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an error of the gateway's own told the client; not the exception, whose traceback would hold on to much."""

    message: str
    explain: Mapping[str, JsonScalar]


Headers = list[tuple[bytes, bytes]]
Attempt = tuple[str, str, float]
"""An upstream's name, the status or fault that it answered with, and the seconds that it took."""


class Trace(Protocol):
    """One request's part of a distributed trace; `trace_id` in hexadecimal, None where the SDK is switched off."""

    trace_id: str | None

    def attempt(self, upstream: str, host: str, port: int, model: str, max_output_tokens: int | None) -> Headers:
        """An upstream is asked now; gives the headers that it is to be sent."""

    def end(self, record: Record) -> None:
        """The request has ended."""


@dataclass(slots=True)
class Record:
    """One request, as it will be logged. Times are `time.perf_counter()` in seconds."""

    request_id: str
    method: str = "POST"
    path: str = "/v1/responses"
    route: str = "/v1/responses"
    client: str = ""
    started: float = field(default_factory=time.perf_counter)
    state: State = State.RECEIVED
    status: int = 0
    code: str | None = None
    refusal: Refusal | None = None
    team_id: str | None = None
    key_id: str | None = None
    secret_hash: str | None = None
    model: str | None = None
    stream: bool = False
    upstream: str | None = None
    upstream_status: int | None = None
    upstream_request_id: str | None = None
    response_id: str | None = None
    tried: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    shows_tried: bool = False
    detail: str | None = None
    outcome: Outcome = Outcome.REFUSED
    settlement: Settlement | None = None
    spooled: bool = False
    unchecked: bool = False
    bytes_in: int = 0
    bytes_out: int = 0
    received: float | None = None  # the whole body is here
    routed: float | None = None  # the store is asked
    admitted: float | None = None
    opened: float | None = None
    first_byte: float | None = None
    relayed: float | None = None  # the answer has gone, the store is told
    ended: float | None = None
    rates: Rates = NO_RATES
    trace: Trace | None = None

    def debug_headers(self) -> list[tuple[bytes, bytes]]:
        """What an admin who asks for it is shown with the answer."""
        return [(b"x-gateway-tried", ", ".join(self.tried).encode())] if self.shows_tried else []

    def line(self, stamp: str = "") -> dict[str, Any]:
        """The fields of the log line; what does not apply is left out."""
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
        return fields

    def timings(self) -> dict[str, float]:
        """What has happened so far, in ms since the request's head."""
        started = self.started
        times = zip(_MARKS, _marks(self), strict=True)
        # To the microsecond, without round(), which writes the number down to find its digits.
        return {name: ((at - started) * 1e6 + 0.5) // 1 / 1e3 for name, at in times if at is not None}


# fmt: off
_OPTIONAL: Final = (
    "code", "team_id", "key_id", "model", "upstream", "upstream_status", "upstream_request_id", "response_id", "detail",
)
_MARKS: Final = ("received_ms", "routed_ms", "admit_ms", "open_ms", "first_byte_ms", "relayed_ms", "total_ms")
# fmt: on
_marks: Final = attrgetter("received", "routed", "admitted", "opened", "first_byte", "relayed", "ended")


class RequestLog:
    """Writes request lines, JSON or for people: those of one turn of the event loop in one write.

    State that changes: the count of lines, the last stamp, the lines of this turn.
    """

    def __init__(self, stream: TextIO, *, human: bool, enabled: bool) -> None:
        self._stream = stream
        self._human = human
        self._enabled = enabled
        self.requests = 0
        self._second, self._stamp = 0, ""
        self._lines: list[str] = []

    def write(self, record: Record) -> None:
        """One line for one request. For use inside the event loop."""
        self.requests += 1
        if not self._enabled:
            return
        second = int(time.time())
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        stamp = self._stamp
        if self._human:
            words = " ".join(f"{name}={value}" for name, value in record.line().items() if name not in _HIDDEN)
            line = f"{stamp}Z {record.method} {record.path} {record.status} {words}\n"
        else:
            fields = record.line(stamp + "Z")
            line = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE).decode()
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(line)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        self._stream.write("".join(lines))
        self._stream.flush()


_HIDDEN: Final = frozenset(
    {"timestamp", "level", "event", "method", "path", "status", "stream", "state", "bytes_in", "bytes_out"}
)
_LEVELS: Final = ("debug", "info", "warning", "error")


def configure_logging(format_: str, level: str, stream: TextIO = sys.stderr) -> RequestLog:
    """Sets up structlog for state changes and returns the log of requests. `format_`: auto, json or text."""
    human = format_ == "text" or (format_ == "auto" and stream.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if human else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    return RequestLog(stream, human=human, enabled=_LEVELS.index(level) <= _LEVELS.index("info"))
