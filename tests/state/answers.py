"""Answers of a provider that keeps nothing."""

from __future__ import annotations

from typing import Any

from tests.support.post_only_provider import Answer

MODEL = "openai/gpt-5.2"
USAGE = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 10,
}
COST_NANO_USD = 7 * 1000 + 3 * 10_000
"""What USAGE costs by the prices of `gateway_settings`."""


def message(text: str, identifier: str = "msg_0") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": identifier, "role": "assistant", "status": "completed", "content": [part]}


def response(text: str, identifier: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": identifier,
        "object": "response",
        "created_at": 1_795_000_000,
        "status": "completed",
        "model": MODEL,
        "output": [message(text)],
        "previous_response_id": None,
        "store": False,
        "usage": USAGE,
        **fields,
    }


def answer(text: str, identifier: str, **fields: Any) -> Answer:
    return Answer(response(text, identifier, **fields))
