"""A response as the gateway shows it before the provider has one, and how it shows one that failed. Pure.

The fields are those of the OpenResponses specification of 2026-04-24, schema `ResponseResource`. What the request sets
is echoed, what it leaves out has the specification's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.protocol.dialects.responses import blank_response

_ECHOED: Final[Mapping[str, type | tuple[type, ...]]] = MappingProxyType(
    {
        "instructions": str,
        "tools": list,
        "tool_choice": (str, dict),
        "truncation": str,
        "parallel_tool_calls": bool,
        "text": dict,
        "top_p": (int, float),
        "presence_penalty": (int, float),
        "frequency_penalty": (int, float),
        "top_logprobs": int,
        "temperature": (int, float),
        "reasoning": dict,
        "max_output_tokens": int,
        "max_tool_calls": int,
        "service_tier": str,
        "metadata": dict,
        "safety_identifier": str,
        "prompt_cache_key": str,
    }
)
_OF_FUNCTIONS: Final[Mapping[str, Any]] = MappingProxyType({"description": None, "parameters": None, "strict": None})
_OF_REASONING: Final[Mapping[str, Any]] = MappingProxyType({"effort": None, "summary": None})


def queued_response(fields: Mapping[str, Any], response_id: str, created_at: int) -> dict[str, Any]:
    """Returns the response to a request that waits. `created_at`: Unix time in seconds."""
    response = blank_response(response_id, str(fields.get("model") or ""), created_at)
    for name, kind in _ECHOED.items():
        value = fields.get(name)
        if isinstance(value, kind):
            response[name] = value
    response["tools"] = [_tool(tool) for tool in response["tools"] if isinstance(tool, dict)]
    if isinstance(response["reasoning"], dict):
        response["reasoning"] = {**_OF_REASONING, **response["reasoning"]}
    if not isinstance(response["text"].get("format"), dict):
        response["text"] = {**response["text"], "format": {"type": "text"}}
    return {**response, "status": "queued", "background": True}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {**_OF_FUNCTIONS, **tool} if tool.get("type") == "function" else dict(tool)


def failed_response(response: Mapping[str, Any], code: str, message: str) -> dict[str, Any]:
    """Returns the response as one that failed, for this reason."""
    return {
        **response,
        "status": "failed",
        "completed_at": None,
        "output": [],
        "usage": None,
        "error": {"code": code, "message": message},
    }


def cancelled_response(response: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the response as one that was cancelled."""
    return {**response, "status": "cancelled", "completed_at": None, "output": [], "usage": None, "error": None}
