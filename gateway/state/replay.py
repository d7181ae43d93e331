"""Replays a stored response as an event stream, for GET with `stream=true`. Pure.

    events(response)     -> the SSE events, numbered from 0: response.created ... the terminal event

Event types and their order follow the OpenResponses specification of 2026-04-24, "Streaming". A text is one delta.
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


def events(response: Mapping[str, Any]) -> list[bytes]:
    """Returns the events of a response that has ended. If it still runs, returns the opening events."""
    return [
        b"event: %b\ndata: %b\n\n" % (kind.encode(), dump_whole({"type": kind, "sequence_number": number, **body}))
        for number, (kind, body) in enumerate([*_opening(response), *ending_events(response)])
    ]


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
    parts = item.get("content")
    message = item.get("type") == "message" and isinstance(parts, list)
    begun = {**item, "status": "in_progress"} if "status" in item else dict(item)
    if message:
        begun["content"] = []
    yield "response.output_item.added", {"output_index": index, "item": begun}
    if message and isinstance(parts, list):
        for at, part in enumerate(parts):
            if isinstance(part, dict):
                place = {"item_id": item.get("id", ""), "output_index": index, "content_index": at}
                yield from _part_events(place, part)
    yield "response.output_item.done", {"output_index": index, "item": item}


def _part_events(place: dict[str, Any], part: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    field = {"output_text": "text", "refusal": "refusal"}.get(str(part.get("type")))
    empty = {**part, field: ""} if field else part
    yield "response.content_part.added", {**place, "part": empty}
    if field:
        kind = "response.output_text" if field == "text" else "response.refusal"
        logprobs = {"logprobs": part.get("logprobs") or []} if field == "text" else {}
        yield f"{kind}.delta", {**place, "delta": part.get(field, ""), **logprobs}
        yield f"{kind}.done", {**place, field: part.get(field, ""), **logprobs}
    yield "response.content_part.done", {**place, "part": part}
