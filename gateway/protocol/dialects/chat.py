"""Chat completions, and the older completions (OpenAI API reference, Create chat completion; Create completion).

Any chunk may carry usage: alone with `choices: []`, next to the last choice, cumulatively on every chunk, or under
`x_groq`. A later valid usage replaces an earlier one. They are never added, and none of them marks the end. An answer
has ended after `[DONE]` or an error, or if each choice has a `finish_reason` when the stream ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.protocol.dialects.dialect import (
    AnswerFacts,
    Bounds,
    Dialect,
    Json,
    Origin,
    RequestForm,
    StreamFacts,
    StreamForm,
    StreamSummary,
    count,
    member,
    text,
)
from gateway.protocol.dialects.openai_form import (
    DONE,
    ERROR_EVENT,
    error_body,
    error_in,
    error_status,
    frame,
    has_ended,
    note_facts,
)
from gateway.protocol.dialects.request_fields import MAX_TOKENS, count_inputs, token_bound, whole_number
from gateway.protocol.lenient_json import id_text
from gateway.protocol.output_size import text_bytes

_WORTH_PARSING: Final = re.compile(
    rb'"(?:usage|error)"\s*:\s*[^\sn]|"finish_reason"\s*:\s*"|"index"\s*:\s*[1-9]|"object"\s*:\s*"error"'
)
_CHAT_HEAD: Final = re.compile(rb'(?:event:[^\r\n]*\r?\n)?data: ?\{[^\r\n]*?"delta" ?: ?\{ ?"')
_TEXT_HEAD: Final = re.compile(rb'(?:event:[^\r\n]*\r?\n)?data: ?\{[^\r\n]*?"text" ?: ?"')
_DELTA_TEXTS: Final = ("content", "reasoning_content", "reasoning", "refusal")


def usage_in(body: Json) -> Json | None:
    """Returns the usage of a chunk or an answer: `usage`, or else Groq's."""
    for usage in (member(body, "usage"), member(body, "x_groq", "usage")):
        if usage is not None and is_valid_usage(usage):
            return usage
    return None


def is_valid_usage(usage: Json) -> bool:
    """Whether a usage counts input and output, and not zero for both, which servers send until they know."""
    counts = [
        next((number for name in names if (number := count(usage.get(name))) is not None), None)
        for names in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
    ]
    return None not in counts and any(counts)


def read_event(facts: StreamFacts, name: str, body: Json) -> None:
    """Reads one chunk."""
    choices = body.get("choices")
    error = error_in(body, name)
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            error = _read_choice(facts, choice) or error
    if (usage := usage_in(body)) is not None:
        facts.usage = usage
    note_facts(facts, body)
    if error is None:
        facts.begun = True
        facts.may_end = len(facts.finished) >= facts.expected and facts.choices <= facts.finished
    else:
        facts.fail(error)
        facts.end("failed")


def _read_choice(facts: StreamFacts, choice: Json) -> Json | None:
    """Notes the content and the end of one choice of a chunk. Returns the error with which it ends, if any."""
    index = count(choice.get("index")) or 0
    if index not in facts.choices:
        facts.choices |= {index}
    facts.has_content = facts.has_content or bool(_piece(choice))
    reason = text(choice.get("finish_reason"))
    if reason is None:
        return None
    facts.finished |= {index}
    facts.has_content = True
    error = choice.get("error")
    if reason == "error" or error:
        return error if isinstance(error, dict) else {"message": "finish_reason: error"}
    return None


def _piece(choice: Json) -> str:
    """Returns the text of a choice's delta or message: content, reasoning and calls."""
    message = choice.get("delta")
    if not isinstance(message, dict):
        message = choice.get("message")
    if not isinstance(message, dict):
        return text(choice.get("text")) or ""
    pieces = [message.get(name) for name in _DELTA_TEXTS]
    calls = message.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    for function in [*functions, message.get("function_call")]:
        if isinstance(function, dict):
            pieces += [function.get("name"), function.get("arguments")]
    return "".join(piece for piece in pieces if isinstance(piece, str))


def output_bytes(body: Json) -> int:
    """Returns the size of what a chunk adds, or an answer has: texts, reasoning, calls, audio and images."""
    choices = body.get("choices")
    if not isinstance(choices, list):
        return 0
    parts = [
        choice.get(name) for choice in choices if isinstance(choice, dict) for name in ("delta", "message", "text")
    ]
    return sum(map(text_bytes, parts))


def drops_usage(body: Json) -> bool:
    """Whether a chunk has a valid usage, no choices and no error, so that no caller misses it."""
    return not body.get("choices") and usage_in(body) is not None and error_in(body) is None


def read_answer(body: Json) -> AnswerFacts:
    """Reads a whole answer."""
    found = body.get("choices")
    choices = [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []
    error = error_in(body)
    failed = error is not None or any(choice.get("finish_reason") == "error" for choice in choices)
    return AnswerFacts(
        usage_in(body),
        "failed" if failed else "completed",
        id_text(body.get("id")),
        error=error if not choices else None,
    )


def close_broken(summary: StreamSummary, error: GatewayError, origin: Origin) -> bytes:
    """Returns an error chunk, which SDKs raise, and `[DONE]`. Returns nothing if the stream has ended already."""
    if has_ended(summary):
        return b""
    return frame(error_body(error, origin.request_id, False)) + DONE  # noqa: FBT003 - codes as words


def close_chat_capped(summary: StreamSummary, origin: Origin) -> bytes:
    """Ends each running choice with the finish reason "length"."""
    return _close_capped(summary, origin, "chat.completion.chunk", {"delta": {}})


def close_text_capped(summary: StreamSummary, origin: Origin) -> bytes:
    """Does the same for a stream of completions."""
    return _close_capped(summary, origin, "text_completion", {"text": ""})


def _close_capped(summary: StreamSummary, origin: Origin, kind: str, piece: Mapping[str, Any]) -> bytes:
    if has_ended(summary):
        return b""
    head = {
        "id": summary.response_id or f"chatcmpl-{origin.request_id}",
        "object": kind,
        "created": origin.created_at,
        "model": summary.answer.get("model", origin.model),
    }
    running = sorted({*range(summary.expected), *summary.choices} - summary.finished)
    choices = [{"index": index, **piece, "finish_reason": "length"} for index in running]
    return b"".join([*(frame({**head, "choices": [choice]}) for choice in choices), DONE])


def chat_bounds(fields: Mapping[str, Any]) -> Bounds:
    """Returns `n` choices of `max_completion_tokens`, or of its older name `max_tokens`."""
    bounds = [token_bound(fields, name) for name in ("max_completion_tokens", "max_tokens")]
    highest = max((bound for bound in bounds if bound is not None), default=None)
    n = whole_number(fields, "n", maximum=_MAX_CHOICES) or 1
    return Bounds(highest, runs=n, choices=n, more_output_tokens=n * _tokens_beyond_bound(fields))


def _tokens_beyond_bound(fields: Mapping[str, Any]) -> int:
    """Returns the output tokens that the bound does not include: wrong predictions, and Qwen's thinking budget."""
    prediction, tokens = fields.get("prediction"), 0
    waiting = [prediction.get("content")] if isinstance(prediction, dict) else []
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            tokens += len(node.encode("utf-8", "replace"))  # no tokenizer makes more tokens than bytes
        elif isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            waiting.append(node.get("text"))
    return tokens + min(count(fields.get("thinking_budget")) or 0, MAX_TOKENS)


def text_bounds(fields: Mapping[str, Any]) -> Bounds:
    """Returns `best_of` runs per prompt, of which `n` come back as choices."""
    n = whole_number(fields, "n", maximum=_MAX_CHOICES) or 1
    runs = max(n, whole_number(fields, "best_of", maximum=_MAX_CHOICES) or 1)
    prompts, tokens = count_inputs(fields.get("prompt"))
    return Bounds(token_bound(fields, "max_tokens"), runs * prompts, n * prompts, input_tokens=tokens)


_MAX_CHOICES: Final = 1024
_DOCUMENTED_OUTPUT: Final = 16
"""The documented default of `max_tokens` in Create completion."""

_CHAT_STREAM: Final = StreamForm(
    read_event=read_event,
    close_broken=close_broken,
    close_capped=close_chat_capped,
    delta=b'"delta"',
    delta_head=_CHAT_HEAD,
    delta_bytes=output_bytes,
    error=ERROR_EVENT,
    worth_parsing=_WORTH_PARSING,
    reads_all=True,
    drops_usage=drops_usage,
)
CHAT: Final = Dialect(
    "chat",
    RequestForm(
        fields=frozenset(
            {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"}
            | {"prediction", "thinking_budget"}
        ),
        bounds=chat_bounds,
        image=b'"image_url"',
        output_fields=("max_completion_tokens", "max_tokens"),
        usage_on_request=True,
    ),
    read_answer,
    error_body,
    _CHAT_STREAM,
    error_status=error_status,
    output_bytes=output_bytes,
)
COMPLETIONS: Final = Dialect(
    "completions",
    RequestForm(
        fields=frozenset({"model", "prompt", "stream", "stream_options", "max_tokens", "n", "best_of"}),
        bounds=text_bounds,
        output_fields=("max_tokens",),
        documented_output=_DOCUMENTED_OUTPUT,
        usage_on_request=True,
    ),
    read_answer,
    error_body,
    replace(_CHAT_STREAM, close_capped=close_text_capped, delta=b'"text"', delta_head=_TEXT_HEAD),
    error_status=error_status,
    output_bytes=output_bytes,
)
