"""Calls of hosted tools in an answer: the counts that the provider reports, or else the items of the output.

 the provider's count                                  | provider                   |
 `tool_usage.NAME.num_requests`                        | OpenAI, Bedrock            |
 `server_tool_use.NAME_requests`                       | Anthropic                  |
 `server_side_tool_usage_details.NAME_calls`           | xAI                        |
 `tool_calls_details.NAME` (a count, or an object)     | Perplexity                 |
 `x_tools.NAME.count`                                  | Qwen                       |
 `num_search_queries`                                  | Perplexity                 |
 `num_sources_used`, as `live_search`                  | xAI                        |
 distinct `webSearchQueries` of the grounding metadata | Gemini                     |

A reported count takes precedence over the items of the same tool: a page that a search opened is an item, but not a
search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.protocol.counts import count

CLIENT_TOOLS: Final = frozenset(
    {"function", "custom_tool", "computer", "mcp", "shell", "local_shell", "apply_patch", "tool_search"}
)
"""Tools that the client runs or pays for elsewhere. They are free unless a price row states a fee for them."""
_NAMES: Final = MappingProxyType(
    {
        "image_gen": "image_generation",
        "web_search_preview": "web_search",
        "search_web": "web_search",
        "code_execution": "code_interpreter",
    }
)
"""Names that a provider uses, and the names of the items in OpenResponses."""
LIVE_SEARCH: Final = "live_search"
"""A source that a search of `search_parameters` reads: it is paid by the source."""
_COUNTERS: Final = ("num_requests", "count", "invocation", "invocations", "num_calls", "calls")
_SUFFIX: Final = "_call"
_GROUNDING: Final = ("groundingMetadata", "grounding_metadata", "vertex_ai_grounding_metadata")
_QUERIES: Final = ("webSearchQueries", "web_search_queries")


def tool_name(name: str) -> str:
    """Returns the tool's name in prices, from a provider's name."""
    return _NAMES.get(name, name)


def hosted_calls(usage: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, int]:
    """Returns the number of calls of each tool, by the tool's name in prices, without zeros."""
    calls = _of_items(answer)
    calls.update(_reported(usage, answer))
    return {name: number for name, number in calls.items() if number}


def _reported(usage: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, value in (*_entries(answer.get("tool_usage")), *_entries(usage.get("tool_usage"))):
        _put(found, name, value if isinstance(value, dict) else None)
    for name, value in _entries(usage.get("server_tool_use")):
        _put(found, name.removesuffix("_requests"), value)
    for name, value in _entries(usage.get("server_side_tool_usage_details")):
        _put(found, name.removesuffix("_calls"), value)
    for table in ("tool_calls_details", "x_tools"):
        for name, value in _entries(usage.get(table)):
            _put(found, name, value)
    _put(found, "web_search", usage.get("num_search_queries"))
    _put(found, LIVE_SEARCH, usage.get("num_sources_used"))
    if queries := set(_search_queries(answer)):
        found.setdefault("web_search", len(queries))
    return found


def _put(found: dict[str, int], name: str, value: object) -> None:
    number = count(value)
    if number is None and isinstance(value, dict):
        number = next((one for key in _COUNTERS if (one := count(value.get(key))) is not None), None)
    if number is not None:
        name = tool_name(name)
        found[name] = max(found.get(name, 0), number)


def _of_items(answer: Mapping[str, Any]) -> dict[str, int]:
    items = answer.get("output")
    if not isinstance(items, list):
        return {}
    calls: dict[str, int] = {}
    containers: set[tuple[str, str]] = set()
    for item in items:
        kind = item.get("type") if isinstance(item, dict) else None
        if not isinstance(kind, str) or not kind.endswith(_SUFFIX):
            continue
        tool = tool_name(kind.removesuffix(_SUFFIX))
        container = item.get("container_id")
        if isinstance(container, str):
            if (tool, container) in containers:
                continue  # a session is paid once, however often it is used
            containers.add((tool, container))
        if tool != "web_search" or _searches(item.get("action")):
            calls[tool] = calls.get(tool, 0) + 1
    return calls


def _searches(action: object) -> bool:
    """Whether an action is a search. Opening a page, or searching within it, is not."""
    return not isinstance(action, dict) or action.get("type", "search") == "search"


def _search_queries(answer: Mapping[str, Any]) -> Iterator[str]:
    for place in _places(answer):
        for name in _GROUNDING:
            for metadata in _list(place.get(name)):
                for key in _QUERIES if isinstance(metadata, dict) else ():
                    yield from (query for query in _list(metadata.get(key)) if isinstance(query, str))


def _places(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield answer
    for name in ("candidates", "choices"):
        for one in _list(answer.get(name)):
            if isinstance(one, dict):
                yield one
                if isinstance(message := one.get("message"), dict):
                    yield message


def _list(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def _entries(value: object) -> list[tuple[str, object]]:
    return list(value.items()) if isinstance(value, dict) else []
