"""What the log writes of a finished request."""

from __future__ import annotations

from typing import Any, Final

from gateway.billing.money import format_usd
from gateway.billing.settlement import Settlement
from gateway.observability.request_record import RequestRecord

_OPTIONAL: Final = (
    "code", "team_id", "key_id", "model", "upstream", "upstream_status", "upstream_request_id", "response_id",
    "chosen_by", "queued_ms", "detail",
)  # fmt: skip


def log_fields(record: RequestRecord, timestamp: str = "") -> dict[str, Any]:
    """Returns the fields of the log line, without those that do not apply."""
    key, upstream = record.key, record.upstream
    fields: dict[str, Any] = {
        "timestamp": timestamp,
        "level": "info",
        "event": "request",
        "request_id": record.request_id,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "outcome": record.outcome,
        "state": record.state,
        "code": record.code,
        "team_id": key.team_id or None,
        "key_id": key.key_id or None,
        "model": record.model,
        "stream": record.stream,
        "upstream": upstream.name,
        "upstream_status": upstream.status,
        "upstream_request_id": upstream.request_id,
        "response_id": record.response_id,
        "chosen_by": upstream.chosen_by,
        "queued_ms": record.queued_ms,
        "detail": record.detail,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
    }
    for name in _OPTIONAL:
        if fields[name] is None:
            del fields[name]
    if record.trace is not None:
        fields["trace_id"] = record.trace.trace_id
    if record.client:
        fields["client"] = record.client
    if upstream.tried:
        fields["tried"] = upstream.tried
    if record.spooled:
        fields["spooled"] = True
    if record.unchecked:
        fields["unchecked"] = True
    fields |= record.times.in_ms()
    settlement = record.settlement
    if settlement is not None:
        usage = settlement.usage
        fields["settled_by"] = settlement.settled_by
        fields["cost_usd"] = format_usd(settlement.cost_nano_usd)
        fields["input_tokens"] = usage.input_tokens
        fields["cached_input_tokens"] = usage.cached_input_tokens
        fields["output_tokens"] = usage.output_tokens
        fields["reasoning_tokens"] = usage.reasoning_tokens
        if settlement.unpriced or settlement.lacks_cost or usage.quantities is not None or settlement.over_nano_usd:
            fields |= _unusual_fields(settlement)
    return fields


def _unusual_fields(settlement: Settlement) -> dict[str, Any]:
    """Returns what is unusual about a settlement and worth a look."""
    quantities = settlement.usage.quantities
    found = {
        "contradictions": () if quantities is None else quantities.contradictions,
        "unpriced": settlement.unpriced,
        "over_hold_usd": format_usd(settlement.over_nano_usd) if settlement.over_nano_usd else None,
        "cost_missing": settlement.lacks_cost,
    }
    return {name: value for name, value in found.items() if value}
