"""The facts of a request that affect its price: its tier and options, and the hosted tools that it permits.

read_facts(fields)   of a decoded body -> RequestFacts, or NO_FACTS if there are none
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.protocol.usage_reader import BASE_TIERS, NO_FACTS, RequestFacts

_MAX_CHARACTERS: Final = 64
_RELEVANT: Final = frozenset({"service_tier", "background_options", "web_search_options", "tools"})


def read_facts(fields: Mapping[str, Any]) -> RequestFacts:
    """Returns the facts of a decoded body. Never raises: a value of another type counts as absent."""
    if _RELEVANT.isdisjoint(fields):
        return NO_FACTS
    tier = _text(fields.get("service_tier"))
    window = _text(_of(fields.get("background_options"), "completion_window"))
    size = _text(_of(fields.get("web_search_options"), "search_context_size"))
    if not size:
        size = next(filter(None, (_text(tool.get("search_context_size")) for tool in _tools(fields))), "")
    if tier in BASE_TIERS and not window and not size:
        return NO_FACTS
    return RequestFacts("" if tier in BASE_TIERS else tier, window, size)


def _tools(fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    tools = fields.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict) and _text(tool.get("type")).startswith("web_search"):
            yield tool


def _of(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _text(value: object) -> str:
    return value[:_MAX_CHARACTERS] if isinstance(value, str) else ""
