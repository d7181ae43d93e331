"""Plan -> the response object, and the SSE frames of a stream in the specification's order.

    response.created, response.in_progress,
    per item: output_item.added, <parts of the item>, output_item.done,
    response.completed | response.incomplete | response.failed, then [DONE]

A message's part: content_part.added, output_text.delta*, output_text.done, content_part.done. Reasoning
has the same with reasoning.*, then its summary with reasoning_summary_*. A function call has
function_call_arguments.delta* and .done. `sequence_number` counts from 0 without gaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import orjson

from gateway.simulator.plan import Item, Plan
from gateway.simulator.request import JsonObject

DONE: Final = b"data: [DONE]\n\n"
AFTER_DONE: Final = b'event: sim:late\ndata: {"type":"sim:late"}\n\n'
_COMMENT: Final = b": simulated comment\n\n"
_FAILURE: Final[Mapping[str, str]] = {"code": "server_error", "message": "The simulator was asked to fail."}

# Fields that a response repeats from its request, with the value that stands for an absent one.
_ECHOED: Final[Mapping[str, Any]] = {
    "previous_response_id": None,
    "instructions": None,
    "tool_choice": "auto",
    "truncation": "disabled",
    "parallel_tool_calls": True,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "top_logprobs": 0,
    "temperature": 1.0,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "store": True,
    "background": False,
    "service_tier": "default",
    "metadata": {},
    "safety_identifier": None,
    "prompt_cache_key": None,
}


class Frame(NamedTuple):
    """One SSE event as bytes. `is_token`: it contains one output token, so a slow model waits before it."""

    data: bytes
    is_token: bool
    sequence_number: int


def response_object(plan: Plan, status: str = "") -> JsonObject:
    """The response resource. `status` other than the plan's: a snapshot without output and usage."""
    fields = plan.request.fields
    final = status in ("", plan.status)
    echoed = {name: default if fields.get(name) is None else fields[name] for name, default in _ECHOED.items()}
    return {
        "id": plan.id,
        "object": "response",
        "created_at": plan.created_at,
        "completed_at": plan.completed_at if final and plan.status == "completed" else None,
        "status": plan.status if final else status,
        "incomplete_details": {"reason": plan.reason} if final and plan.reason else None,
        "error": _FAILURE if final and plan.status == "failed" else None,
        "model": plan.request.model,
        "output": [item_object(item) for item in plan.items] if final else [],
        "usage": plan.usage if final else None,
        "tools": [_tool(tool) for tool in fields.get("tools") or ()],
        "text": _text(fields.get("text") or {}),
        "reasoning": _reasoning_settings(fields.get("reasoning")),
        **echoed,
        "tool_choice": _tool_choice(echoed["tool_choice"]),
    }


def _tool(tool: JsonObject) -> JsonObject:
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}


def _tool_choice(choice: Any) -> Any:
    # A request may leave `mode` out, a response may not.
    return {"mode": "auto", **choice} if isinstance(choice, dict) and choice.get("type") == "allowed_tools" else choice


def _text(text: JsonObject) -> JsonObject:
    wanted = text.get("format") or {"type": "text"}
    if wanted.get("type") == "json_schema":
        # In the specification, a response repeats the format without its schema: `schema` is null there.
        strict = wanted.get("strict") is True
        wanted = {"name": "", "description": None, **wanted, "schema": None, "strict": strict}
    return {**text, "format": wanted}


def _reasoning_settings(reasoning: JsonObject | None) -> JsonObject | None:
    return {"effort": None, "summary": None, **reasoning} if reasoning is not None else None


def _text_part(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def item_object(item: Item, *, opening: bool = False) -> JsonObject:
    """An output item; `opening` is its form in `output_item.added`, before it has content."""
    common = {"type": item.kind, "id": item.id, "status": "in_progress" if opening else item.status}
    text = "" if opening else "".join(item.tokens)
    if item.kind == "message":
        return {**common, "role": "assistant", "content": [] if opening else [_text_part(text)]}
    if item.kind == "function_call":
        return {**common, "call_id": item.call_id, "name": item.name, "arguments": text}
    if item.kind == "reasoning":
        content = [] if opening else [{"type": "reasoning_text", "text": text}]
        summary = [{"type": "summary_text", "text": "".join(item.summary)}] if item.summary and not opening else []
        sealed = {"encrypted_content": item.encrypted} if item.encrypted and not opening else {}
        return {**common, "content": content, "summary": summary, **sealed}
    return {**common, "note": "An item type that no specification names."}


class _Writer:
    """Renders events. Mutable: the next sequence number."""

    def __init__(self, newline: bytes, *, comments: bool) -> None:
        self.sequence_number = 0
        self._newline = newline
        self._comment = _COMMENT if comments else b""

    def _frame(self, data: bytes, *, is_token: bool) -> Frame:
        number = self.sequence_number
        self.sequence_number += 1
        return Frame(in_lines(self._comment + data, self._newline), is_token, number)

    def event(self, kind: str, **fields: object) -> Frame:
        payload = orjson.dumps({"type": kind, "sequence_number": self.sequence_number, **fields})
        return self._frame(b"event: %b\ndata: %b\n\n" % (kind.encode(), payload), is_token=False)

    def deltas(self, kind: str, tokens: list[str], **fields: object) -> Iterator[Frame]:
        """One event for each token. Only number and text differ, so the rest is rendered once."""
        rest = orjson.dumps(fields)[1:-1]
        head = b'event: %b\ndata: {"type":"%b","sequence_number":' % (kind.encode(), kind.encode())
        for token in tokens:
            data = b'%b%d,%b,"delta":%b}\n\n' % (head, self.sequence_number, rest, orjson.dumps(token))
            yield self._frame(data, is_token=True)


def in_lines(data: bytes, newline: bytes) -> bytes:
    """The same SSE text with other line ends; JSON holds no raw line feed, so all of them are SSE's."""
    return data if newline == b"\n" else data.replace(b"\n", newline)


def frames(plan: Plan, *, well_behaved: bool = False) -> Iterator[Frame]:
    """Yields the events of the plan's stream, without `[DONE]`.

    `well_behaved` leaves out what the model's behaviour adds to the framing: a replay is plain.
    """
    behaviour = plan.request.behaviour
    newline = b"\n" if well_behaved else behaviour.newline
    error_due = behaviour.error_event  # after the first token
    writer = _Writer(newline, comments=behaviour.comments and not well_behaved)
    yield writer.event("response.created", response=response_object(plan, "in_progress"))
    yield writer.event("response.in_progress", response=response_object(plan, "in_progress"))
    if behaviour.extension:
        yield writer.event("sim:custom", payload={"note": "An event type that no specification names."})
    for index, item in enumerate(plan.items):
        yield writer.event("response.output_item.added", output_index=index, item=item_object(item, opening=True))
        place = {"item_id": item.id, "output_index": index}
        for frame in _item_frames(writer, item, place):
            yield frame
            if frame.is_token and behaviour.extension:
                yield writer.event("sim:custom", payload={"after": frame.sequence_number})
            if error_due and frame.is_token:
                error_due = False
                error = {"type": "server_error", "code": "server_error", "message": _FAILURE["message"], "param": None}
                yield writer.event("error", error=error)
        yield writer.event("response.output_item.done", output_index=index, item=item_object(item))
    yield writer.event(f"response.{plan.status}", response=response_object(plan))


def _item_frames(writer: _Writer, item: Item, place: JsonObject) -> Iterator[Frame]:
    text = "".join(item.tokens)
    if item.kind == "message":
        at = {**place, "content_index": 0}
        yield writer.event("response.content_part.added", **at, part=_text_part(""))
        yield from writer.deltas("response.output_text.delta", item.tokens, **at, logprobs=[])
        yield writer.event("response.output_text.done", **at, text=text, logprobs=[])
        yield writer.event("response.content_part.done", **at, part=_text_part(text))
    elif item.kind == "function_call":
        yield from writer.deltas("response.function_call_arguments.delta", item.tokens, **place)
        # The SDK reads `name` here. The specification neither requires nor forbids it.
        yield writer.event("response.function_call_arguments.done", **place, name=item.name, arguments=text)
    elif item.kind == "reasoning":
        at = {**place, "content_index": 0}
        yield writer.event("response.content_part.added", **at, part={"type": "reasoning_text", "text": ""})
        yield from writer.deltas("response.reasoning.delta", item.tokens, **at)
        yield writer.event("response.reasoning.done", **at, text=text)
        yield writer.event("response.content_part.done", **at, part={"type": "reasoning_text", "text": text})
        if item.summary:
            yield from _summary_frames(writer, "".join(item.summary), {**place, "summary_index": 0})


def _summary_frames(writer: _Writer, text: str, at: JsonObject) -> Iterator[Frame]:
    kind = "response.reasoning_summary"
    yield writer.event(f"{kind}_part.added", **at, part={"type": "summary_text", "text": ""})
    # A summary does not count as output tokens, so it is sent at once, in one delta.
    yield writer.event(f"{kind}_text.delta", **at, delta=text)
    yield writer.event(f"{kind}_text.done", **at, text=text)
    yield writer.event(f"{kind}_part.done", **at, part={"type": "summary_text", "text": text})
