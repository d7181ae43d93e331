"""What a request leaves for operators: its log line, its metrics, its trace.

request_record   the one record that all steps of a request fill in
log_fields       what the log writes of it
request_log      writes one structured line per finished request
log_writer       writes log lines without blocking the event loop
metrics          counters, and what /metrics shows
tracing          OpenTelemetry spans
otel_metrics     OpenTelemetry metrics
otel             what these two share
"""
