"""An OTLP collector for traces and metrics on a real socket.

with collector() as received:      received.endpoint is for OTEL_EXPORTER_OTLP_ENDPOINT
    received.trace()               its spans by name, once the server span has arrived, which ends last
"""

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan

from tests.support.waiting import wait_until_sync

SERVER = SentSpan.SPAN_KIND_SERVER


@dataclass(frozen=True)
class Span:
    """One received span."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    begin_ns: int
    end_ns: int
    is_error: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


@dataclass
class Received:
    """What was received so far, with the last export's `headers`.

    `refused`: exports refused by `refuses` or by their path.
    """

    endpoint: str = ""
    refuses: bool = False
    refused: int = 0
    spans: list[Span] = field(default_factory=list)
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def trace(self, *, count: int = 1) -> list[Span]:
        """Returns the spans of the last request, earliest first, once `count` requests have arrived completely."""

        def servers() -> list[Span]:
            return [span for span in self.spans if span.kind == SERVER]

        wait_until_sync(lambda: len(servers()) >= count, what=f"{count} server spans arrive")
        last = servers()[count - 1].trace_id
        return sorted((span for span in self.spans if span.trace_id == last), key=lambda span: span.begin_ns)


@contextlib.contextmanager
def collector() -> Iterator[Received]:
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            ours = self.path in ("/v1/traces", "/v1/metrics") and not received.refuses
            received.refused += not ours
            if ours:
                received.headers = {name.lower(): value for name, value in self.headers.items()}
                received.bodies.append(body)
                if self.path == "/v1/metrics":
                    received.metrics.append(ExportMetricsServiceRequest.FromString(body))
                else:
                    received.spans += spans_of(body)
            self.send_response(200 if ours else 400)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name for it
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()


def spans_of(body: bytes) -> Iterator[Span]:
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = plain(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Span(
                    name=span.name,
                    kind=span.kind,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    begin_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    is_error=span.status.code == span.status.STATUS_CODE_ERROR,
                    attributes=plain(span.attributes),
                    resource=resource,
                )


def plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
