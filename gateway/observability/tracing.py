"""Traces by OpenTelemetry. Imported only if `telemetry.traces` is on; needs the extra "otel".

 span                | kind     | from, to                                     | child of                 |
---------------------|----------|----------------------------------------------|--------------------------|
 POST /v1/responses  | server   | the request's head, its settlement           | the caller's traceparent |
 read, admit, settle | internal | reading the body; the two calls of the store | the server span          |
 chat o4-mini        | client   | an attempt at an upstream, its answer's end  | the server span          |

An attempt's client span starts before the attempt, because the upstream receives it as `traceparent`. All other spans
are written when the request has ended, from the times in its record. Attributes follow the semantic conventions for
HTTP and for generative AI; others are named `gateway.*`. No span contains prompts, answers or secrets.

Exporter, sampler, resource and bounds are the SDK's, which reads its own variables (OTEL_*).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Final

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from gateway import __version__
from gateway.observability.otel import END_S, GOOD, SERVICE, SdkNotes, error_of, resource
from gateway.observability.request_record import RequestRecord
from gateway.protocol.operations import Operation
from gateway.types import Headers

_PROPAGATION: Final = TraceContextTextMapPropagator()
_CARRIED: Final = frozenset({b"traceparent", b"tracestate"})
_CLIENT_ERROR: Final = 400


class Tracing:
    """One worker's tracer and its exporter."""

    def __init__(self) -> None:
        """Raises ValueError for OTEL_* variables that the SDK rejects or ignores."""
        notes = SdkNotes()
        self._exporter = _Exporter(OTLPSpanExporter(), notes)
        self._provider = TracerProvider(resource=resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer(SERVICE, __version__)
        if notes.wrong_setting:  # for example "unrecognized sampler": the SDK would continue with its default
            self._provider.shutdown()
            raise ValueError(notes.wrong_setting)

    def begin(self, record: RequestRecord, operation: Operation, headers: Headers) -> Traced:
        """Starts a request's trace, or continues the caller's."""
        carried = {name.decode(): value.decode("latin-1") for name, value in headers if name in _CARRIED}
        return Traced(self._tracer, record, operation, _PROPAGATION.extract(carried, Context()))

    async def end(self) -> None:
        """Sends what is queued, for at most END_S: an unavailable collector must not delay the shutdown.

        What the collector has not accepted by then is dropped, with the same time again to log that.
        """
        thread = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, END_S)
        if thread.is_alive():
            self._exporter.shutdown()
            await asyncio.to_thread(thread.join, END_S)


class Traced:
    """The spans of one request; see `request_record.Trace`. Mutable: the spans of the attempts."""

    __slots__ = ("_attempts", "_context", "_operation", "_span", "_tracer", "_zero_ns", "trace_id")

    def __init__(self, tracer: trace.Tracer, record: RequestRecord, operation: Operation, parent: Context) -> None:
        self._tracer = tracer
        self._operation = operation
        self._zero_ns = time.time_ns() - time.perf_counter_ns()
        self._attempts: list[tuple[Span, float]] = []
        self._span = tracer.start_span(
            f"{record.method} {record.route}",
            parent,
            SpanKind.SERVER,
            _known(
                {
                    "http.request.method": record.method,
                    "http.route": record.route,
                    "url.path": record.path,
                    "client.address": record.client or None,
                    "gateway.request_id": record.request_id,
                }
            ),
            start_time=self._at(record.times.started),
        )
        self._context = trace.set_span_in_context(self._span, Context())
        context = self._span.get_span_context()
        self.trace_id = trace.format_trace_id(context.trace_id) if context.is_valid else None

    def attempt(self, upstream: str, host: str, port: int, model: str, max_output_tokens: int | None) -> Headers:
        """Starts an attempt at an upstream. Returns the headers that continue the trace there."""
        name = self._operation.span
        began = time.perf_counter()
        span = self._tracer.start_span(
            f"{name} {model}",
            self._context,
            SpanKind.CLIENT,
            _known(
                {
                    "gen_ai.operation.name": name,
                    "gen_ai.provider.name": upstream,
                    "gen_ai.request.model": model,
                    "gen_ai.request.max_tokens": max_output_tokens,
                    "server.address": host,
                    "server.port": port,
                    "http.request.method": self._operation.method,
                }
            ),
            start_time=self._at(began),
        )
        self._attempts.append((span, began))
        carried: dict[str, str] = {}
        _PROPAGATION.inject(carried, trace.set_span_in_context(span, Context()))
        return [(key.encode(), value.encode("latin-1")) for key, value in carried.items()]

    def end(self, record: RequestRecord) -> None:
        """Ends the request and writes all other spans."""
        if self._span.is_recording():
            for name, began, ended in (
                ("read", record.times.started, record.times.received),
                ("admit", record.times.routed, record.times.admitted),
                ("settle", record.times.relayed, record.times.ended),
            ):
                if began is not None and ended is not None:
                    step = self._tracer.start_span(name, self._context, start_time=self._at(began))
                    step.end(self._at(ended))
            self._end_attempts(record)
            self._span.set_attributes(_known(_of_request(record)))
            if error := error_of(record):
                _fail(self._span, error, record.detail)
        self._span.end(None if record.times.ended is None else self._at(record.times.ended))

    def _end_attempts(self, record: RequestRecord) -> None:
        last, results = len(self._attempts) - 1, record.upstream.attempts
        for number, (span, began) in enumerate(self._attempts):
            _, result, took_s = results[number] if number < len(results) else ("", "", 0.0)
            status = int(result) if result.isdigit() else None
            ended = began + took_s if took_s else record.times.relayed
            error = result if status is None or status >= _CLIENT_ERROR else None
            if status is not None:
                span.set_attribute("http.response.status_code", status)
                if number == last:  # the answer of this attempt was passed on
                    ended = record.times.relayed
                    span.set_attributes(_known(_of_answer(record, began)))
                    error = error or (None if record.outcome in GOOD else record.outcome.value)
            if error:
                _fail(span, error, record.detail if number == last else None)
            span.end(None if ended is None else self._at(ended))

    def _at(self, seconds: float) -> int:
        """Returns a time of the record as nanoseconds since 1970, by the clock at the start of the request."""
        return self._zero_ns + int(seconds * 1e9)


class _Exporter(SpanExporter):
    """The SDK's exporter. Its failures are logged when they start and when they end, not for each batch."""

    def __init__(self, exporter: SpanExporter, notes: SdkNotes) -> None:
        self._exporter = exporter
        self._notes = notes
        self._fails = False
        self._log = structlog.get_logger("gateway.tracing")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends a batch. Called from the SDK's own thread."""
        result = self._exporter.export(spans)
        fails = result is not SpanExportResult.SUCCESS
        if fails and not self._fails:
            self._log.warning("traces_not_exported", reason=self._notes.first)
        elif self._fails and not fails:
            self._log.info("traces_exported")
        self._fails = fails
        if not fails:
            self._notes.first = ""
        return result

    def shutdown(self) -> None:
        """Drops what is queued and closes the exporter."""
        self._exporter.shutdown()


def _of_request(record: RequestRecord) -> dict[str, AttributeValue | None]:
    settlement = record.settlement
    return {
        "http.response.status_code": record.status or None,
        "gateway.outcome": record.outcome.value,
        "gateway.error.code": record.code,
        "gateway.team.id": record.key.team_id or None,
        "gateway.key.id": record.key.key_id or None,
        "gateway.model": record.model,
        "gateway.stream": record.stream,
        "gateway.settled_by": settlement.settled_by if settlement else None,
        "gateway.cost_nano_usd": settlement.cost_nano_usd if settlement else None,
        "gateway.spooled": record.spooled or None,
        "gateway.unchecked": record.unchecked or None,
    }


def _of_answer(record: RequestRecord, began: float) -> dict[str, AttributeValue | None]:
    """Returns the attributes of the last upstream's answer.

    Estimates are not reported as usage; they are part of the cost.
    """
    settlement = record.settlement
    usage = settlement.usage if settlement and settlement.settled_by in ("usage", "upstream_cost") else None
    streamed = record.stream and record.times.first_byte is not None
    return {
        "gen_ai.request.stream": record.stream,
        "gen_ai.response.id": record.response_id,
        "gen_ai.response.time_to_first_chunk": (record.times.first_byte or 0.0) - began if streamed else None,
        "gen_ai.usage.input_tokens": usage.input_tokens if usage else None,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens if usage else None,
        "gen_ai.usage.output_tokens": usage.output_tokens if usage else None,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens if usage else None,
    }


def _fail(span: Span, error: str, detail: str | None) -> None:
    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR, detail))


def _known(attributes: dict[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    return {name: value for name, value in attributes.items() if value is not None}
