"""How the gateway ends a stream that its upstream did not end. Pure; DESIGN: "Answers to clients".

    nothing                      where the response has ended already (a terminal event or [DONE] has passed)
    (blank line)                 where an event larger than the bound was cut: ours must not join it
    (response.created)           where no event has shown the response: the SDKs' helpers need it first
    error                        the spec's ErrorStreamingEvent, which raises in the official SDK; never a second one
    response.failed              what the opening event showed, with status, error and number of our own
    data: [DONE]

A stream that is cut at its cap ends with response.incomplete instead, and without an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gateway.errors import GatewayError
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.sse_observer import SseObserver

_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Origin:
    """What the gateway knows of a response where its upstream has shown nothing. `created_at`: Unix time in seconds."""

    response_id: str
    model: str
    created_at: int


def failure_frames(observer: SseObserver, error: GatewayError, origin: Origin) -> bytes:
    """The bytes that end a broken stream; b"" where it has ended already. What the tap still holds is to be dropped."""
    payload = {"type": error.kind.type, "code": error.code, "message": error.message, "param": error.param}
    response = {"status": "failed", "error": {"code": error.code, "message": error.message}, "incomplete_details": None}
    events = [("error", {"error": payload})] if not observer.error_seen else []
    return _frames(
        observer, origin, [*events, ("response.failed", {"response": _snapshot(observer, origin) | response})]
    )


def incomplete_frames(observer: SseObserver, origin: Origin, *, reason: str = "max_output_tokens") -> bytes:
    """The bytes that end a stream at its cap (`cut at cap`); b"" where it has ended already."""
    response = {"status": "incomplete", "error": None, "incomplete_details": {"reason": reason}}
    return _frames(observer, origin, [("response.incomplete", {"response": _snapshot(observer, origin) | response})])


def _frames(observer: SseObserver, origin: Origin, events: list[tuple[str, dict[str, Any]]]) -> bytes:
    if observer.terminal is not None or observer.done:
        return b""
    if not observer.opened and not observer.deltas:
        events.insert(0, ("response.created", {"response": _snapshot(observer, origin)}))
    first = observer.last_sequence_number() + 1
    frames = [_frame(kind, number, body) for number, (kind, body) in enumerate(events, first)]
    return b"".join([b"" if observer.aligned else b"\n\n", *frames, _DONE])


def _frame(kind: str, sequence_number: int, body: dict[str, Any]) -> bytes:
    """ASCII JSON by the standard library: it writes what it read, lone surrogates and large integers too."""
    data = json.dumps({"type": kind, "sequence_number": sequence_number, **body}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode("ascii")


def _snapshot(observer: SseObserver, origin: Origin) -> dict[str, Any]:
    """The response in progress: each field that the spec's ResponseResource requires, then what the upstream showed."""
    opening = (parse_object(observer.created) if observer.created is not None else None) or {}
    shown = opening.get("response")
    return {
        "id": observer.response_id or origin.response_id,
        "object": "response",
        "created_at": origin.created_at,
        "status": "in_progress",
        "incomplete_details": None,
        "model": origin.model,
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
        **(shown if isinstance(shown, dict) else {}),
        "completed_at": None,
    }
