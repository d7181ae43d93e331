"""A response before the provider has one, and a response that failed or was cancelled. Pure.

The fields are those of the OpenResponses specification of 2026-04-24, schema `ResponseResource`. Fields that the
request sets are repeated, and the others have the specification's defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.protocol.dialects.responses import blank_response

_NUMBER: Final = (int, float)
_ECHOED: Final[Mapping[str, tuple[type, ...]]] = MappingProxyType(
    {
        "instructions": (str,),
        "tools": (list,),
        "tool_choice": (str, dict),
        "truncation": (str,),
        "parallel_tool_calls": (bool,),
        "text": (dict,),
        "top_p": _NUMBER,
        "presence_penalty": _NUMBER,
        "frequency_penalty": _NUMBER,
        "top_logprobs": (int,),
        "temperature": _NUMBER,
        "reasoning": (dict,),
        "max_output_tokens": (int,),
        "max_tool_calls": (int,),
        "service_tier": (str,),
        "metadata": (dict,),
        "safety_identifier": (str,),
        "prompt_cache_key": (str,),
    }
)
"""The fields of a request that its response repeats, where they have their type."""
_FUNCTION_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {"description": None, "parameters": None, "strict": None}
)


def begun_response(fields: Mapping[str, Any], response_id: str, model: str, created_at: int) -> dict[str, Any]:
    """Returns the response in progress to a request of these fields. `created_at`: Unix time in seconds."""
    echoed = {name: fields[name] for name, kinds in _ECHOED.items() if _has_kind(fields.get(name), kinds)}
    for name, complete in _COMPLETIONS.items():
        if name in echoed:
            echoed[name] = complete(echoed[name])
    return {**blank_response(response_id, model, created_at), **echoed}


def queued_response(fields: Mapping[str, Any], response_id: str, created_at: int) -> dict[str, Any]:
    """Returns the response to a request that waits. `created_at`: Unix time in seconds."""
    begun = begun_response(fields, response_id, str(fields.get("model") or ""), created_at)
    return {**begun, "status": "queued", "background": True}


def _has_kind(value: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _tools(tools: list[Any]) -> list[Any]:
    given = [tool for tool in tools if isinstance(tool, dict)]
    return [{**_FUNCTION_DEFAULTS, **tool} if tool.get("type") == "function" else tool for tool in given]


def _tool_choice(choice: Any) -> Any:
    is_list = isinstance(choice, dict) and choice.get("type") == "allowed_tools"
    return {"mode": "auto", **choice} if is_list else choice


def _text(text: dict[str, Any]) -> dict[str, Any]:
    form = text.get("format")
    if not isinstance(form, dict):
        return {**text, "format": {"type": "text"}}
    if form.get("type") != "json_schema":
        return text
    # The schema itself is not repeated: the specification's `JsonSchemaResponseFormat` has null there.
    strict = form.get("strict") is True
    return {**text, "format": {"name": "", "description": None, **form, "schema": None, "strict": strict}}


def _reasoning(reasoning: dict[str, Any]) -> dict[str, Any]:
    return {"effort": None, "summary": None, **reasoning}


_COMPLETIONS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {"tools": _tools, "tool_choice": _tool_choice, "text": _text, "reasoning": _reasoning}
)
"""What a request may leave out, and its response may not."""


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
