"""What a request leaves for operators: its log line, its metrics, its trace.

request_record   the one record that all steps of a request fill in
request_log      one structured line per finished request
log_writer       writes log lines without blocking the event loop
metrics          counters, and what /metrics shows
tracing          OpenTelemetry spans
otel_metrics     OpenTelemetry metrics
otel             what these two share
"""
