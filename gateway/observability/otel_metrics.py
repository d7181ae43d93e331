"""Metrics by OpenTelemetry, beside those of Prometheus. Imported only if `telemetry.metrics` is on; needs extra "otel".

 instrument                                    | unit    | what it counts                                              |
-----------------------------------------------|---------|-------------------------------------------------------------|
 gen_ai.client.token.usage                     | {token} | the tokens that a provider has reported, input and output   |
 gen_ai.client.operation.duration              | s       | from the admission of a request to the end of its answer    |
 gen_ai.client.operation.time_to_first_chunk   | s       | from the admission to the first byte of a stream            |

Names, units, buckets and attributes are those of the semantic conventions for generative AI, version 1.41.0, which each
export says as its schema. Requests that reached no provider are not operations, and estimates are no usage. Exporter,
interval and resource are the SDK's, which reads its own variables (OTEL_*).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import structlog
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.util.types import AttributeValue

from gateway import __version__
from gateway.observability.otel import END_S, SERVICE, SdkNotes, error_of, instance_resource
from gateway.observability.request_record import RequestRecord
from gateway.protocol.operations import OPERATIONS

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.0"
TOKEN_BUCKETS: Final = (
    *(1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864),
)
DURATION_BUCKETS_S: Final = (*(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),)
CHUNK_BUCKETS_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_SPANS: Final[Mapping[str, str]] = MappingProxyType(
    {f"{operation.method} {operation.route}": operation.span for operation in OPERATIONS}
)


class OtelMetrics:
    """One worker's meter and its exporter."""

    def __init__(self, max_series: int) -> None:
        """Raises ValueError for OTEL_* variables that the SDK rejects or ignores. `max_series` bounds the models."""
        notes = SdkNotes()
        self._exporter = _Exporter(notes)
        reader = PeriodicExportingMetricReader(self._exporter)
        self._provider = MeterProvider([reader], instance_resource(), shutdown_on_exit=False)
        meter = self._provider.get_meter(SERVICE, __version__, SCHEMA_URL)
        if notes.wrong_setting:
            self._provider.shutdown()
            raise ValueError(notes.wrong_setting)
        self._models: set[str] = set()
        self._max_series = max_series
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS_S,
        )
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "Time to receive the first chunk.",
            explicit_bucket_boundaries_advisory=CHUNK_BUCKETS_S,
        )

    def note(self, record: RequestRecord) -> None:
        """Counts a request that has ended."""
        began, ended = record.times.admitted, record.times.relayed
        if began is None or ended is None or record.upstream.name is None or not record.upstream.attempts:
            return
        attributes = self._attributes(record)
        error = error_of(record)
        failed: dict[str, AttributeValue] = {"error.type": error} if error else {}
        self._duration.record(max(0.0, ended - began), {**attributes, **failed})
        if record.stream and record.times.first_byte is not None:
            self._first_chunk.record(max(0.0, record.times.first_byte - began), attributes)
        settlement = record.settlement
        if settlement is None or settlement.settled_by not in ("usage", "upstream_cost"):
            return
        usage = settlement.usage
        if usage.input_tokens < 0 or usage.output_tokens < 0:
            return  # the correction of an estimate, which was not counted
        self._tokens.record(usage.input_tokens, {**attributes, "gen_ai.token.type": "input"})
        self._tokens.record(usage.output_tokens, {**attributes, "gen_ai.token.type": "output"})

    def _attributes(self, record: RequestRecord) -> dict[str, AttributeValue]:
        model = record.model or ""
        if model not in self._models:
            if len(self._models) < self._max_series:
                self._models.add(model)
            else:
                model = "other"  # names come from callers: each would be kept for as long as the worker lives
        return {
            "gen_ai.operation.name": _SPANS.get(f"{record.method} {record.route}", record.route),
            "gen_ai.provider.name": record.upstream.name or "",
            "gen_ai.request.model": model,
        }

    async def end(self) -> None:
        """Sends what was counted, for at most END_S: an unavailable collector must not delay the shutdown."""
        thread = threading.Thread(target=self._provider.shutdown, name="metrics", daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, END_S)
        if thread.is_alive():
            self._exporter.shutdown()
            await asyncio.to_thread(thread.join, END_S)


class _Exporter(OTLPMetricExporter):
    """The SDK's exporter. Its failures are logged when they start and when they end, not for each export."""

    def __init__(self, notes: SdkNotes) -> None:
        super().__init__()
        self._notes = notes
        self._fails = False
        self._log = structlog.get_logger("gateway.otel_metrics")

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: object
    ) -> MetricExportResult:
        """Sends what was counted. Called from the SDK's own thread."""
        result = super().export(metrics_data, timeout_millis, **kwargs)
        fails = result is not MetricExportResult.SUCCESS
        if fails and not self._fails:
            self._log.warning("metrics_not_exported", reason=self._notes.first)
        elif self._fails and not fails:
            self._log.info("metrics_exported")
        self._fails = fails
        if not fails:
            self._notes.first = ""
        return result
