"""Answers for the provider that only answers POST."""

from __future__ import annotations

from typing import Any, Final

from tests.support.post_only_provider import Answer

MODEL: Final = "openai/gpt-5.2"
USAGE: Final = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 10,
}


def message(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg_0", "role": "assistant", "status": "completed", "content": [part]}


def call(name: str, call_id: str) -> dict[str, Any]:
    call = {"type": "function_call", "call_id": call_id, "name": name, "arguments": "{}"}
    return {**call, "id": "fc_0", "status": "completed"}


def answer(
    text: str, identifier: str, *, delay_s: float = 0, output: Any = None, streams: bool = True, **fields: Any
) -> Answer:
    """A response that says this, or has this output."""
    response = {
        "id": identifier,
        "object": "response",
        "created_at": 1_795_000_000,
        "status": "completed",
        "model": MODEL,
        "output": [message(text)] if output is None else output,
        "previous_response_id": None,
        "store": False,
        "usage": USAGE,
    }
    return Answer({**response, **fields}, delay_s=delay_s, streams=streams)


def failure(status: int, code: str) -> Answer:
    error = {"error": {"message": "No.", "type": "invalid_request_error", "param": "input", "code": code}}
    return Answer(error, status=status)
