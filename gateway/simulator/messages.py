"""Anthropic's Messages: a plan as their JSON answers and events, and the count of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from gateway.simulator.answer import send_frames, send_misbehaviour, send_text
from gateway.simulator.events import Frame, in_lines
from gateway.simulator.http_exchange import HttpExchange
from gateway.simulator.plan import Item, Plan, make_plan
from gateway.simulator.request import JsonObject, ProviderError, parse_object
from gateway.simulator.text import read_prompt
from gateway.simulator.translation import messages_request, model_of

_OVERLOADED: Final[Mapping[str, Any]] = {
    "type": "error",
    "error": {"type": "overloaded_error", "message": "Overloaded"},
}
_COMMENT: Final = b": simulated comment\n\n"
_PLACEHOLDER: Final = 1


async def messages(exchange: HttpExchange, body: bytes) -> None:
    """POST /v1/messages."""
    fields = parse_object(body)
    request = messages_request(fields)
    if request.max_output_tokens is None:
        raise ProviderError("missing_field", "max_tokens is required", param="max_tokens")
    if await send_misbehaviour(exchange, request.behaviour, request.model):
        return
    plan = make_plan(request, 0)
    if request.stream:
        await send_frames(exchange, request.behaviour, _events(plan), b"")
    else:
        await send_text(exchange, request.behaviour, orjson.dumps(_message(plan)), plan.token_count)


async def count_tokens(exchange: HttpExchange, body: bytes) -> None:
    """POST /v1/messages/count_tokens."""
    fields = parse_object(body)
    model_of(fields)
    request = messages_request({**fields, "max_tokens": None})
    await exchange.respond_json({"input_tokens": read_prompt(request.items, request.fields).input_tokens})


def _usage(plan: Plan) -> JsonObject | None:
    if plan.usage is None:
        return None
    cached = plan.usage["input_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": plan.usage["input_tokens"] - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": plan.usage["output_tokens"],
        "service_tier": "standard",
    }


def _reason(plan: Plan) -> str:
    if plan.status == "incomplete":
        return "max_tokens"
    return "tool_use" if any(item.kind == "function_call" for item in plan.items) else "end_turn"


def _head(plan: Plan) -> JsonObject:
    return {
        "id": f"msg_{plan.id.removeprefix('resp_')}",
        "type": "message",
        "role": "assistant",
        "model": plan.request.model,
        "stop_sequence": None,
    }


def _message(plan: Plan) -> JsonObject:
    content = [_block(item, "".join(item.tokens)) for item in plan.items]
    message = {**_head(plan), "content": content, "stop_reason": _reason(plan)}
    usage = _usage(plan)
    return message if usage is None else {**message, "usage": usage}


def _block(item: Item, text: str) -> JsonObject:
    if item.kind == "function_call":
        return {"type": "tool_use", "id": _tool_id(item), "name": item.name, "input": orjson.loads(text or "{}")}
    if item.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": "sim" if text else ""}
    return {"type": "text", "text": text}


def _tool_id(item: Item) -> str:
    return f"toolu_{item.call_id.removeprefix('call_')}"


def _events(plan: Plan) -> Iterator[Frame]:
    behaviour = plan.request.behaviour
    count = 0

    def event(kind: str, fields: Mapping[str, Any] = MappingProxyType({}), *, is_token: bool = False) -> Frame:
        nonlocal count
        count += 1
        data = b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))
        data = (_COMMENT if behaviour.comments else b"") + data
        return Frame(in_lines(data, behaviour.newline), is_token, count - 1)

    if behaviour.error_first:
        yield event("error", _OVERLOADED)
        return
    usage = _usage(plan)
    begun = {**_head(plan), "content": [], "stop_reason": None}
    if usage is not None:
        begun["usage"] = {**usage, "output_tokens": _PLACEHOLDER}
    yield event("message_start", {"message": begun})
    yield event("ping")
    error_due = behaviour.error_event
    for index, item in enumerate(plan.items):
        begins = _block(item, "")
        yield event("content_block_start", {"index": index, "content_block": begins})
        for token in item.tokens:
            yield event("content_block_delta", {"index": index, "delta": _delta(item, token)}, is_token=True)
            if error_due:
                yield event("error", _OVERLOADED)
                return
        if item.kind == "reasoning":
            signed = {"type": "signature_delta", "signature": "sim"}
            yield event("content_block_delta", {"index": index, "delta": signed})
        yield event("content_block_stop", {"index": index})
    ended: JsonObject = {"delta": {"stop_reason": _reason(plan), "stop_sequence": None}}
    yield event("message_delta", {**ended, "usage": usage or {}})
    yield event("message_stop")


def _delta(item: Item, token: str) -> JsonObject:
    if item.kind == "function_call":
        return {"type": "input_json_delta", "partial_json": token}
    if item.kind == "reasoning":
        return {"type": "thinking_delta", "thinking": token}
    return {"type": "text_delta", "text": token}
