"""Replays a stored response as an event stream, for GET with `stream=true`. Pure.

    events(response)                -> the SSE events, numbered from 0: response.created ... the terminal event
    events_after(response, number)  -> those after the one with this number

Event types and their order follow the OpenResponses specification of 2026-04-24, "Streaming". The events of items that
it does not have are those of OpenAI's API reference. A text is one delta, and so are the arguments of a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.protocol.response_events import TERMINAL_EVENTS
from gateway.state.large_work import dump_whole

_NOT_YET: Final[Mapping[str, Any]] = MappingProxyType(
    {"status": "in_progress", "output": [], "usage": None, "completed_at": None, "error": None}
)

_TEXT_OF_CALLS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "function_call": ("arguments", "response.function_call_arguments"),
        "custom_tool_call": ("input", "response.custom_tool_call_input"),
        "mcp_call": ("arguments", "response.mcp_call_arguments"),
        "code_interpreter_call": ("code", "response.code_interpreter_call_code"),
    }
)
"""The text of a call that a model writes: its member of the item, and the events that carry it."""
_TEXT_OF_PARTS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "output_text": ("text", "response.output_text"),
        "refusal": ("refusal", "response.refusal"),
        "reasoning_text": ("text", "response.reasoning"),
    }
)
"""The same of a part of an item's content."""
_WITH_LOGPROBS: Final = "response.output_text"
_NAMED: Final = "response.function_call_arguments"
"""The SDKs read the function's `name` at the end of its arguments."""
_ITEMS_WITH_PARTS: Final = frozenset({"message", "reasoning"})


def events(response: Mapping[str, Any]) -> list[bytes]:
    """Returns the events of a response that has ended. If it still runs, returns the opening events."""
    return [_frame(*event, number) for number, event in enumerate([*_opening(response), *ending_events(response)])]


def events_after(response: Mapping[str, Any], number: int) -> list[bytes]:
    """Returns the events after the one with this number. Of a response that has ended there is at least the last one.

    A stream as it was sent may have had more events, because a text came in many pieces: a client may have seen more of
    them than there are here.
    """
    rest = events(response)[number + 1 :]
    if rest or str(response.get("status")) not in TERMINAL_EVENTS:
        return rest
    return [_frame(*terminal_event(response), number + 1)]


def _frame(kind: str, body: Mapping[str, Any], number: int) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), dump_whole({"type": kind, "sequence_number": number, **body}))


def _opening(response: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    begun = {**response, **{name: value for name, value in _NOT_YET.items() if name in response}}
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}


def ending_events(response: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the type and the body of each event after the opening ones. There are none if the response still runs."""
    if str(response.get("status")) not in TERMINAL_EVENTS:
        return
    for index, item in enumerate(response.get("output") or []):
        if isinstance(item, dict):
            yield from _item_events(index, item)
    yield terminal_event(response)


def terminal_event(response: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the type and the body of the event that ends the stream of this response."""
    status = str(response.get("status"))
    # The specification has no event for a cancelled response, and typed clients would not know one.
    kind = TERMINAL_EVENTS["incomplete" if status == "cancelled" else status]
    return kind, {"response": dict(response)}


def _item_events(index: int, item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    place = {"item_id": item.get("id", ""), "output_index": index}
    begun = {**item, "status": "in_progress"} if "status" in item else dict(item)
    name, kind = _TEXT_OF_CALLS.get(str(item.get("type")), ("", ""))
    has_text = bool(name) and isinstance(item.get(name), str)
    parts, summary = _parts_of(item, "content"), _parts_of(item, "summary")
    begun |= (
        ({name: ""} if has_text else {}) | ({"content": []} if parts else {}) | ({"summary": []} if summary else {})
    )
    yield "response.output_item.added", {"output_index": index, "item": begun}
    if has_text:
        named = {"name": item["name"]} if kind == _NAMED and isinstance(item.get("name"), str) else {}
        yield f"{kind}.delta", {**place, "delta": item[name]}
        yield f"{kind}.done", {**place, **named, name: item[name]}
    for at, part in enumerate(parts):
        yield from _part_events({**place, "content_index": at}, part)
    for at, part in enumerate(summary):
        yield from _summary_events({**place, "summary_index": at}, part)
    yield "response.output_item.done", {"output_index": index, "item": item}


def _parts_of(item: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Returns the parts of an item that events carry one by one. There are none if it has anything else there."""
    parts = item.get(name) if item.get("type") in _ITEMS_WITH_PARTS else None
    return parts if isinstance(parts, list) and all(isinstance(part, dict) for part in parts) else []


def _part_events(place: dict[str, Any], part: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    name, kind = _TEXT_OF_PARTS.get(str(part.get("type")), ("", ""))
    yield "response.content_part.added", {**place, "part": {**part, name: ""} if name else part}
    if name:
        logprobs = {"logprobs": part.get("logprobs") or []} if kind == _WITH_LOGPROBS else {}
        yield f"{kind}.delta", {**place, "delta": part.get(name, ""), **logprobs}
        yield f"{kind}.done", {**place, name: part.get(name, ""), **logprobs}
    yield "response.content_part.done", {**place, "part": part}


def _summary_events(place: dict[str, Any], part: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    text = part.get("text", "")
    yield "response.reasoning_summary_part.added", {**place, "part": {**part, "text": ""}}
    yield "response.reasoning_summary_text.delta", {**place, "delta": text}
    yield "response.reasoning_summary_text.done", {**place, "text": text}
    yield "response.reasoning_summary_part.done", {**place, "part": part}
