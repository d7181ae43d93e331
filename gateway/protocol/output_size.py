"""Estimates how much output a model has put into an answer that reports no usage. Pure.

    text_bytes(node)     the output in a decoded item, message or delta, as bytes of text; four bytes are about a token

| content                                        | counts as                                                     |
|------------------------------------------------|---------------------------------------------------------------|
| texts, reasoning, arguments, code, names       | their bytes                                                   |
| pictures in base64                             | the tokens of a large picture, whatever their size            |
| sound and files in base64                      | a token for 16 bytes                                          |
| encrypted reasoning                            | the bytes that are encrypted                                  |
| ids, types, states, positions, probabilities   | nothing, because the provider's program writes them           |
| results of tools                               | nothing, because this model did not write them                |
"""

from __future__ import annotations

from typing import Any, Final

from gateway.protocol.attachments import kind_of_value
from gateway.protocol.lenient_json import dumps
from gateway.protocol.token_estimates import ATTACHMENT_BYTES_PER_TOKEN, BYTES_PER_TOKEN, IMAGE_TOKENS

_NOT_PUT_OUT: Final = frozenset(
    {
        "id", "type", "status", "role", "object", "index", "call_id", "tool_call_id", "item_id", "container_id",
        "finish_reason", "stop_reason", "logprobs", "annotations", "citations", "results", "output", "outputs",
        "tool_outputs", "tools", "metadata", "error", "usage", "model", "phase", "server_label", "format", "mime_type",
        "media_type", "created_by", "pending_safety_checks", "acknowledged_safety_checks", "signature",
        "reasoning_details", "obfuscation", "expires_at", "detail",
    }
)  # fmt: skip
_ENCRYPTED: Final = frozenset({"encrypted_content", "redacted_thinking"})
_AS_JSON: Final = frozenset({"input", "arguments", "action"})
"""Members that a model writes as JSON. They are a text in one dialect, or in a stream, and decoded in another."""
_FOUND: Final = frozenset({"sources"})
"""Members of a search's action that hold its results."""
_FILES: Final = frozenset({"data", "audio", "result", "b64_json", "partial_image_b64", "image_url", "url", "image"})
"""Members that hold output other than text. Sound often has no head by which it could be recognised."""
_PICTURE: Final = object()
_MAX_NODES: Final = 100_000
_FILE_BYTES_PER_TEXT_BYTE: Final = ATTACHMENT_BYTES_PER_TOKEN // BYTES_PER_TOKEN


def text_bytes(node: object) -> int:
    """Returns the size of the output in bytes of text. Never raises."""
    total = 0
    waiting: list[tuple[str, object]] = [("", node)]
    for _ in range(_MAX_NODES):
        if not waiting:
            break
        name, value = waiting.pop()
        if name in _NOT_PUT_OUT:
            continue
        if value is _PICTURE:
            total += IMAGE_TOKENS * BYTES_PER_TOKEN
        elif isinstance(value, str):
            total += _of_string(name, value)
        elif isinstance(value, list):
            waiting += [(name, one) for one in value]
        elif isinstance(value, dict):
            if name in _AS_JSON:
                total += len(dumps({key: one for key, one in value.items() if key not in _FOUND}))
            else:
                waiting += _members(value)
    return total


def _members(value: dict[str, Any]) -> list[tuple[str, Any]]:
    """Returns the members without repetitions. A picture is marked, because its content may have been cut."""
    if value.get("type") == "image_generation_call" and isinstance(value.get("result"), str):
        value = {**value, "result": _PICTURE}
    return [(name, one) for name, one in value.items() if name != "reasoning_content" or "reasoning" not in value]


def file_bytes(size: int) -> int:
    """Returns the size of a file in base64 as bytes of text."""
    return size // _FILE_BYTES_PER_TEXT_BYTE


def _of_string(name: str, value: str) -> int:
    if name in _ENCRYPTED:
        return len(value) * 3 // 4
    if name in _FILES and (kind := kind_of_value(name, value)) is not None:
        return IMAGE_TOKENS * BYTES_PER_TOKEN if kind == "image" else file_bytes(len(value))
    return len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
