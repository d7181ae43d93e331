"""Anthropic's Messages (API reference, Messages; streaming events), and its counting of tokens.

`message_start` has the input, and a placeholder for the output that is never charged. `message_delta` is cumulative:
its fields replace earlier values, including those of the input. Fields that it leaves out, such as the split of cache
writes, keep their values. There is no `[DONE]`: `message_stop` ends an answer, and `event: error` breaks it off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.protocol.dialects.dialect import (
    AnswerFacts,
    Bounds,
    Dialect,
    Json,
    Origin,
    RequestForm,
    StreamFacts,
    StreamForm,
    StreamSummary,
    count,
    member,
    text,
)
from gateway.protocol.dialects.openai_form import (
    answer_facts,
    error_status,
    frame,
    has_ended,
    note_facts,
    note_failure,
)
from gateway.protocol.dialects.request_fields import token_bound
from gateway.protocol.output_size import text_bytes

_ERROR: Final = re.compile(rb'event: ?error|"type"\s*:\s*"error"|"error"\s*:\s*[^\sn]')
_DELTA_HEAD: Final = re.compile(rb'(?:event:[^\r\n]*\r?\n)?data: ?\{"type": ?"content_block_delta"')
_INPUTS: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")

ERROR_TYPES: Final[Mapping[int, str]] = MappingProxyType(
    {
        400: "invalid_request_error",
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
)
"""HTTP status -> Anthropic's error type. Other 4xx are `invalid_request_error`, other 5xx are `api_error`."""


def error_body(error: GatewayError, request_id: str, numeric_codes: bool) -> Json:  # noqa: FBT001 - the signature of Dialect.error_body
    """Returns Anthropic's error body. `error` has the gateway's own fields next to type and message."""
    fields = error.body(numeric_codes=numeric_codes)["error"]
    default = "invalid_request_error" if error.status < 500 else "api_error"  # noqa: PLR2004 - an HTTP class
    body = {"type": "error", "error": {**fields, "type": ERROR_TYPES.get(error.status, default)}}
    return {**body, "request_id": request_id} if request_id else body


def read_event(facts: StreamFacts, name: str, body: Json) -> None:
    """Reads one event of a stream."""
    kind = text(body.get("type")) or name
    if note_failure(facts, body, name):
        return
    facts.begun = facts.begun or kind != "ping"
    if kind == "message_start":
        _read_start(facts, body)
    elif kind == "message_delta":
        _read_delta(facts, body)
    elif kind == "message_stop":
        facts.end("completed", kind)
    elif kind == "content_block_delta":
        facts.has_content = True


def _read_start(facts: StreamFacts, body: Json) -> None:
    message = member(body, "message") or {}
    note_facts(facts, message)
    usage = member(message, "usage")
    if usage is not None and facts.usage is None:
        known = {name: value for name, value in usage.items() if name != "output_tokens" and value is not None}
        facts.usage = known if _input(known) else None


def _read_delta(facts: StreamFacts, body: Json) -> None:
    """Merges a cumulative usage. A usage without any input leaves the known input unchanged."""
    facts.has_content = True
    usage = member(body, "usage") or {}
    stated = {name: value for name, value in usage.items() if value is not None}
    if facts.usage is not None and _input(facts.usage) and not _input(stated):
        stated = {name: value for name, value in stated.items() if name not in _INPUTS}
    if stated:
        facts.usage = {**(facts.usage or {}), **stated}
    facts.may_end = facts.may_end or text((member(body, "delta") or {}).get("stop_reason")) is not None


def _input(usage: Json) -> int:
    return sum(count(usage.get(name)) or 0 for name in _INPUTS)


def delta_bytes(body: Json) -> int:
    """Returns the size of what a `content_block_delta` adds: text, thinking or a tool's input."""
    return text_bytes(body.get("delta"))


def read_answer(body: Json) -> AnswerFacts:
    """Reads a whole message."""
    return answer_facts(body, member(body, "usage"))


def output_bytes(body: Json) -> int:
    """Returns the size of a message's texts, thinking and tool inputs, which are the deltas of a stream."""
    content = body.get("content")
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    return sum(
        text_bytes({name: value for name, value in block.items() if name != "name"})
        for block in blocks
        if not str(block.get("type")).endswith("_tool_result")
    )


def read_count(body: Json) -> AnswerFacts:
    """Reads a count of tokens. The number is the answer, not a usage."""
    return answer_facts(body, None)


def close_broken(summary: StreamSummary, error: GatewayError, origin: Origin) -> bytes:
    """Returns an error event, without which a cut stream looks complete. Returns nothing if the stream has ended."""
    if has_ended(summary):
        return b""
    fields = error.body()["error"]
    body = {"type": "error", "error": {**fields, "type": "api_error"}, "request_id": origin.request_id}
    return frame(body, "error")


def close_capped(summary: StreamSummary, origin: Origin) -> bytes:
    """Ends the message with the stop reason "max_tokens"."""
    del origin
    if has_ended(summary):
        return b""
    delta = {"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None}}
    output = {"output_tokens": max(1, summary.deltas)}
    return frame({**delta, "usage": output}, "message_delta") + frame({"type": "message_stop"}, "message_stop")


def bounds(fields: Mapping[str, Any]) -> Bounds:
    """Returns the bound `max_tokens`. The API requires it, and the provider refuses a body without it."""
    return Bounds(token_bound(fields, "max_tokens"))


def no_bounds(_: Mapping[str, Any]) -> Bounds:
    """Returns no bounds, because counting tokens produces no output."""
    return Bounds()


HEADERS: Final = frozenset({b"anthropic-version", b"anthropic-beta"})
_IMAGE: Final = b'"image"'

MESSAGES: Final = Dialect(
    "messages",
    RequestForm(
        frozenset({"model", "messages", "stream", "max_tokens"}), bounds, image=_IMAGE, output_fields=("max_tokens",)
    ),
    read_answer,
    error_body,
    StreamForm(
        read_event=read_event,
        close_broken=close_broken,
        close_capped=close_capped,
        delta=b'"content_block_delta"',
        delta_head=_DELTA_HEAD,
        delta_bytes=delta_bytes,
        markers=(b"message_start", b"message_delta", b"message_stop", b"[DONE]"),
        error=_ERROR,
        terminals=frozenset({"message_stop"}),
    ),
    HEADERS,
    error_status=error_status,
    output_bytes=output_bytes,
)
COUNT_TOKENS: Final = Dialect(
    "messages",
    RequestForm(frozenset({"model", "messages"}), no_bounds, has_output=False, image=_IMAGE),
    read_count,
    error_body,
    headers=HEADERS,
    error_status=error_status,
)
