"""Chat completions and completions: a plan as their JSON answers and chunks.

Streams end with `[DONE]`. A separate chunk has the usage if `stream_options.include_usage` asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from gateway.simulator.answer import send_frames, send_misbehaviour, send_text
from gateway.simulator.events import DONE, Frame, in_lines
from gateway.simulator.http_exchange import HttpExchange
from gateway.simulator.plan import Item, Plan, make_plan
from gateway.simulator.request import JsonObject, ProviderError, parse_object
from gateway.simulator.translation import chat_request, choices_of, text_request

_REASONS: Final[Mapping[str, str]] = {"completed": "stop", "incomplete": "length", "failed": "error"}
_FAILURE: Final[Mapping[str, Any]] = {
    "message": "The simulator was asked to fail.",
    "type": "server_error",
    "param": None,
    "code": 500,
}
_COMMENT: Final = b": simulated comment\n\n"


async def chat_completions(exchange: HttpExchange, body: bytes) -> None:
    """POST /v1/chat/completions."""
    fields = parse_object(body)
    request = chat_request(fields)
    refuse_options(fields, request.behaviour.refuses_options)
    if await send_misbehaviour(exchange, request.behaviour, request.model):
        return
    plans = [make_plan(request, 0) for _ in range(choices_of(fields))]
    if request.stream:
        await send_frames(exchange, request.behaviour, _chunks(plans, asks_usage(fields)), DONE)
    else:
        await send_text(exchange, request.behaviour, orjson.dumps(_completion(plans)), plans[0].token_count)


async def completions(exchange: HttpExchange, body: bytes) -> None:
    """POST /v1/completions."""
    fields = parse_object(body)
    prompts = _prompts(fields)
    request = text_request(fields, prompts[0])
    refuse_options(fields, request.behaviour.refuses_options)
    if await send_misbehaviour(exchange, request.behaviour, request.model):
        return
    plans = [make_plan(text_request(fields, prompt), 0) for prompt in prompts for _ in range(choices_of(fields))]
    if request.stream:
        await send_frames(exchange, request.behaviour, _text_chunks(plans, asks_usage(fields)), DONE)
        return
    answer = {
        **_head(plans[0], "text_completion", "cmpl"),
        "choices": list(map(_text_choice, range(len(plans)), plans)),
    }
    await send_text(exchange, request.behaviour, orjson.dumps(_with_usage(answer, plans)), plans[0].token_count)


def refuse_options(fields: JsonObject, refuses: bool) -> None:  # noqa: FBT001 - the behaviour's own flag
    """Refuses `stream_options`, which some servers do not know. Raises `ProviderError`."""
    if refuses and fields.get("stream_options") is not None:
        message = "extra_forbidden: body.stream_options.include_usage is not permitted"
        raise ProviderError("extra_forbidden", message, param="stream_options", status=422)


def asks_usage(fields: JsonObject) -> bool:
    """Whether a stream's usage is requested."""
    options = fields.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def chat_usage(plans: list[Plan]) -> JsonObject | None:
    """Returns the `usage` of a chat completion, for all its choices together."""
    if plans[0].usage is None:
        return None
    first = plans[0].usage
    output = sum((plan.usage or {}).get("output_tokens", 0) for plan in plans)
    reasoning = sum((plan.usage or {}).get("output_tokens_details", {}).get("reasoning_tokens", 0) for plan in plans)
    usage: JsonObject = {
        "prompt_tokens": first["input_tokens"],
        "completion_tokens": output,
        "total_tokens": first["input_tokens"] + output,
        "prompt_tokens_details": {"cached_tokens": first["input_tokens_details"]["cached_tokens"], "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
    }
    if "cost" in first:
        usage["cost"] = first["cost"]
    return usage


def _prompts(fields: JsonObject) -> list[str]:
    prompt = fields.get("prompt")
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise ProviderError("missing_field", "prompt is required", param="prompt")
    if all(isinstance(entry, int) for entry in prompt):
        return [f"{len(prompt)} tokens"]
    return [entry if isinstance(entry, str) else f"{len(entry)} tokens" for entry in prompt]


def _head(plan: Plan, kind: str, prefix: str) -> JsonObject:
    return {
        "id": f"{prefix}-{plan.id.removeprefix('resp_')}",
        "object": kind,
        "created": int(time.time()),
        "model": plan.request.model,
    }


def _reason(plan: Plan) -> str:
    if plan.status == "completed" and any(item.kind == "function_call" for item in plan.items):
        return "tool_calls"
    return _REASONS[plan.status]


def _completion(plans: list[Plan]) -> JsonObject:
    choices = [
        {"index": index, "message": _message(plan), "logprobs": None, "finish_reason": _reason(plan)}
        for index, plan in enumerate(plans)
    ]
    answer = {**_head(plans[0], "chat.completion", "chatcmpl"), "choices": choices, "service_tier": "default"}
    if plans[0].status == "failed":
        answer["error"] = _FAILURE
    return _with_usage(answer, plans)


def _with_usage(answer: JsonObject, plans: list[Plan]) -> JsonObject:
    usage = chat_usage(plans)
    return answer if usage is None else {**answer, "usage": usage}


def _message(plan: Plan) -> JsonObject:
    text = "".join(token for item in plan.items if item.kind == "message" for token in item.tokens)
    thought = "".join(token for item in plan.items if item.kind == "reasoning" for token in item.tokens)
    message: JsonObject = {"role": "assistant", "content": text or None, "refusal": None, "annotations": []}
    if thought:
        message["reasoning_content"] = thought
    calls = [_call(item, "".join(item.tokens)) for item in plan.items if item.kind == "function_call"]
    return {**message, "tool_calls": calls} if calls else message


def _call(item: Item, arguments: str) -> JsonObject:
    return {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": arguments}}


def _text_choice(index: int, plan: Plan) -> JsonObject:
    text = "".join(token for item in plan.items for token in item.tokens)
    return {"index": index, "text": text, "logprobs": None, "finish_reason": _REASONS[plan.status]}


class _Chunks:
    """Renders chunks. Mutable: their number."""

    def __init__(self, plans: list[Plan], head: JsonObject) -> None:
        behaviour = plans[0].request.behaviour
        self._newline = behaviour.newline
        self._comment = _COMMENT if behaviour.comments else b""
        self._head = head
        self._count = 0

    def __call__(self, choices: list[JsonObject], *, is_token: bool = False, **more: Any) -> Frame:
        data = b"data: %b\n\n" % orjson.dumps({**self._head, "choices": choices, **more})
        return self.frame(data, is_token=is_token)

    def frame(self, data: bytes, *, is_token: bool = False) -> Frame:
        self._count += 1
        return Frame(in_lines(self._comment + data, self._newline), is_token, self._count - 1)


def _chunks(plans: list[Plan], with_usage: bool) -> Iterator[Frame]:  # noqa: FBT001 - the caller's wish
    chunk = _Chunks(plans, {**_head(plans[0], "chat.completion.chunk", "chatcmpl"), "service_tier": "default"})
    behaviour = plans[0].request.behaviour
    usage: JsonObject = {"usage": None} if with_usage else {}
    if behaviour.error_first:
        yield chunk.frame(b"data: %b\n\n" % orjson.dumps({"error": _FAILURE}))
        return
    for index, plan in enumerate(plans):
        role = {"role": "assistant", "content": "", "refusal": None}
        yield chunk([_choice(index, role)], **usage)
        error_due = behaviour.error_event
        for delta in _deltas(plan):
            yield chunk([_choice(index, delta)], is_token=True, **usage)
            if error_due:
                yield chunk.frame(b"data: %b\n\n" % orjson.dumps({"error": _FAILURE}))
                error_due = False
        if plan.status == "failed":
            yield chunk([_choice(index, {}, "error")], error=_FAILURE, **usage)
        else:
            yield chunk([_choice(index, {}, _reason(plan))], **usage)
    if with_usage and (counted := chat_usage(plans)) is not None:
        yield chunk([], usage=counted)


def _choice(index: int, delta: JsonObject, reason: str | None = None) -> JsonObject:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def _deltas(plan: Plan) -> Iterator[JsonObject]:
    calls = 0
    for item in plan.items:
        if item.kind == "function_call":
            yield {"tool_calls": [{"index": calls, **_call(item, "")}]}
            for token in item.tokens:
                yield {"tool_calls": [{"index": calls, "function": {"arguments": token}}]}
            calls += 1
        else:
            name = "reasoning_content" if item.kind == "reasoning" else "content"
            yield from ({name: token} for token in item.tokens)


def _text_chunks(plans: list[Plan], with_usage: bool) -> Iterator[Frame]:  # noqa: FBT001 - the caller's wish
    chunk = _Chunks(plans, _head(plans[0], "text_completion", "cmpl"))
    for index, plan in enumerate(plans):
        piece = {"index": index, "logprobs": None, "finish_reason": None}
        for item in plan.items:
            for token in item.tokens:
                yield chunk([{**piece, "text": token}], is_token=True)
        yield chunk([{**piece, "text": "", "finish_reason": _REASONS[plan.status]}])
    if with_usage and (counted := chat_usage(plans)) is not None:
        yield chunk([], usage=counted)
