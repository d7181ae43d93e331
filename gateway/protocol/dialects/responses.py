"""OpenResponses, the dialect of /v1/responses and below.

The gateway ends a stream that its upstream did not end with these closing events:

    (none)                       if the response has ended already (a terminal event or [DONE] has passed)
    response.created             if no event has shown the response, because the SDKs' stream helpers need it first
    error                        the specification's ErrorStreamingEvent, which the official SDK raises; at most one;
                                 message, code and param are also at its top level, for clients that look there
    response.failed              the response of the opening event, with the gateway's status, error and sequence number
    data: [DONE]

If the response continues at its upstream (a stream by id, a resumed one, or a background response), only the error
event is sent. A stream that is cut at its cap ends with response.incomplete, and without an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.protocol.dialects.dialect import (
    AnswerFacts,
    Bounds,
    Dialect,
    Ended,
    Json,
    Opening,
    Origin,
    RequestForm,
    StreamFacts,
    StreamForm,
    StreamSummary,
    member,
)
from gateway.protocol.dialects.openai_form import DONE, error_body, error_in, error_status, frame
from gateway.protocol.dialects.request_fields import token_bound
from gateway.protocol.lenient_json import id_text, parse_object
from gateway.protocol.output_size import file_bytes, text_bytes
from gateway.protocol.response_events import RUNNING, TERMINAL_EVENTS, TERMINAL_STATUSES

OPENINGS: Final = frozenset({"response.created", "response.queued", "response.in_progress"})
_ENDED: Final[Mapping[str, Ended]] = MappingProxyType(
    {"incomplete": "incomplete", "failed": "failed", "cancelled": "incomplete"}
)
"""How a response ended, by its status. Every other final status is an answer that is complete."""
NO_USAGE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    }
)
"""The usage of a response that used no tokens."""


def read_event(facts: StreamFacts, name: str, body: Json) -> None:
    """Reads one event that contains a marker."""
    kind = body.get("type")
    kind = kind if isinstance(kind, str) else name  # clients prefer the type in the JSON
    error = member(body, "error")
    if kind == "error" or (error and not kind):  # an error without a type comes from servers of chat completions
        facts.fail(error or body)
    elif status := TERMINAL_STATUSES.get(kind):
        response = body.get("response")
        if isinstance(response, dict):
            usage, response_id = response.get("usage"), response.get("id")
            facts.usage = facts.usage or (usage if isinstance(usage, dict) else None)
            facts.answer = facts.answer or response
            facts.response_id = facts.response_id or id_text(response_id)
        facts.end(_ENDED.get(status, "completed"), kind)


def delta_bytes(body: Json) -> int:
    """Returns the size of what a delta adds: text, or audio in base64."""
    kind, size = str(body.get("type")), text_bytes(body.get("delta"))
    return file_bytes(size) if "audio" in kind and "transcript" not in kind else size


def item_bytes(body: Json) -> int:
    """Returns the size of the output item in an event."""
    return text_bytes(body.get("item"))


def output_bytes(body: Json) -> int:
    """Returns the size of a response's output. Fields that repeat the request do not count."""
    return text_bytes(body.get("output"))


def read_answer(body: Json) -> AnswerFacts:
    """Reads a response. An error inside an object "response" is the reason of a failed response."""
    status, response_id = body.get("status"), body.get("id")
    in_progress = str(status) in RUNNING
    usage = body.get("usage")
    return AnswerFacts(
        usage if isinstance(usage, dict) and not in_progress else None,
        _ENDED.get(str(status), "completed"),
        id_text(response_id),
        in_progress=in_progress,
        error=None if body.get("object") == "response" else error_in(body),
    )


def bounds(fields: Mapping[str, Any]) -> Bounds:
    """Returns the bound `max_output_tokens` of one answer."""
    return Bounds(token_bound(fields, "max_output_tokens"))


def close_broken(summary: StreamSummary, error: GatewayError, origin: Origin) -> bytes:
    """Returns the closing events of a broken stream, or b"" if it has ended already."""
    fields = {"code": error.code, "message": error.message, "param": error.param}
    event = {**fields, "error": {"type": error.kind.type, **fields}}
    if origin.continues_upstream:
        return _closing_error(summary, event)
    response = {"status": "failed", "error": {"code": error.code, "message": error.message}, "incomplete_details": None}
    events = [("error", event)] if summary.error is None else []
    end = (TERMINAL_EVENTS["failed"], {"response": _snapshot(summary, origin) | response})
    return _frames(summary, origin, [*events, end])


def _closing_error(summary: StreamSummary, event: dict[str, Any]) -> bytes:
    """Returns the error event of a response that continues upstream. It makes up no end, id or number of it."""
    if summary.ended is not None or summary.error is not None:
        return b""
    return frame({"type": "error", **event}, "error") + DONE


def close_capped(summary: StreamSummary, origin: Origin) -> bytes:
    """Returns the closing events of a stream that is cut at its cap, or b"" if it has ended already."""
    response = {"status": "incomplete", "error": None, "incomplete_details": {"reason": "max_output_tokens"}}
    end = (TERMINAL_EVENTS["incomplete"], {"response": _snapshot(summary, origin) | response})
    return _frames(summary, origin, [end])


def _frames(summary: StreamSummary, origin: Origin, events: list[tuple[str, dict[str, Any]]]) -> bytes:
    if summary.ended is not None:
        return b""
    if not summary.has_opening and not summary.deltas:
        events.insert(0, ("response.created", {"response": _snapshot(summary, origin)}))
    first = summary.last_sequence_number() + 1
    frames = [_frame(kind, number, body) for number, (kind, body) in enumerate(events, first)]
    return b"".join([*frames, DONE])


def _frame(kind: str, sequence_number: int, body: dict[str, Any]) -> bytes:
    """Writes ASCII JSON with the standard library, which also accepts lone surrogates and large integers."""
    data = json.dumps({"type": kind, "sequence_number": sequence_number, **body}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode("ascii")


def _snapshot(summary: StreamSummary, origin: Origin) -> dict[str, Any]:
    """Returns the response in progress: the fields that the specification requires, and those of the opening event."""
    opening = (parse_object(summary.opening) if summary.opening is not None else None) or {}
    shown = opening.get("response")
    identifier = summary.response_id or f"resp_{origin.request_id.removeprefix('req_')}"
    return {
        **blank_response(identifier, origin.model, origin.created_at),
        **(shown if isinstance(shown, dict) else {}),
        "completed_at": None,
    }


def blank_response(response_id: str, model: str, created_at: int) -> dict[str, Any]:
    """Returns a response in progress with every field that the specification requires. `created_at`: Unix time, s."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "completed_at": None,
        "status": "in_progress",
        "incomplete_details": None,
        "model": model,
        "previous_response_id": None,
        "instructions": None,
        "output": [],
        "error": None,
        "tools": [],
        "tool_choice": "auto",
        "truncation": "disabled",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}},
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_logprobs": 0,
        "temperature": 1.0,
        "reasoning": None,
        "usage": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "store": False,
        "background": False,
        "service_tier": "default",
        "metadata": {},
        "safety_identifier": None,
        "prompt_cache_key": None,
    }


RESPONSES: Final = Dialect(
    "responses",
    RequestForm(
        fields=frozenset({"model", "input", "stream", "max_output_tokens", "previous_response_id", "store"}),
        bounds=bounds,
        image=b'"input_image"',
        output_fields=("max_output_tokens",),
    ),
    read_answer,
    error_body,
    StreamForm(
        read_event=read_event,
        close_broken=close_broken,
        close_capped=close_capped,
        delta=b'.delta"',  # the end of a delta's type; inside a JSON string the quote would be escaped
        delta_head=re.compile(rb'(?:event:[^\r\n]*\r?\n)?data: ?\{"type": ?"[a-z0-9_.]+\.delta"'),
        delta_bytes=delta_bytes,
        item_bytes=item_bytes,
        markers=(*(event.encode() for event in TERMINAL_STATUSES), b"[DONE]"),
        error=re.compile(rb'event: ?error|"type"\s*:\s*"error"|data: ?\{"error"\s*:\s*\{'),
        terminals=frozenset(TERMINAL_STATUSES),
        opening=Opening(
            OPENINGS,
            re.compile(rb"response\.(?:created|queued|in_progress)"),
            re.compile(rb'"type"\s*:\s*"response\.(?:created|queued|in_progress)"'),
        ),
        item=b"response.output_item.done",
        passes_partial_event=False,
        holds_preamble=False,
    ),
    error_status=error_status,
    output_bytes=output_bytes,
)
