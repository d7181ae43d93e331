"""Request -> Plan: everything that an answer will contain, decided before its first byte.

    items    reasoning?  extension item?  then function calls, or one message
    budget   max_output_tokens cuts the items, counted from the first token; what it cuts is `incomplete`
    status   completed | incomplete (with a reason) | failed (with an error)

Plain answers, streams and replays are all rendered from the same plan (events.py).
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any, Final

import orjson

from gateway.simulator.request import JsonObject, ProviderError, Request
from gateway.simulator.schema_check import Unsatisfiable
from gateway.simulator.schema_fill import fill
from gateway.simulator.text import Prompt, read_prompt, reply, subject_of, tokens_of, wanted_tools

_USD_PER_INPUT_TOKEN: Final = 1.25e-06
_USD_PER_OUTPUT_TOKEN: Final = 1e-05
_MS_PER_S: Final = 1000
_CYCLE: Final = (" This", " is", " one", " simulated", " sentence", ",", " and", " another", " follows", " it")


@dataclass(frozen=True, slots=True)
class Item:
    """One output item. `kind` is its type; `tokens` its text or its arguments; `summary` for reasoning."""

    kind: str
    id: str
    tokens: list[str]
    summary: list[str]
    name: str = ""
    call_id: str = ""
    encrypted: str = ""
    status: str = "completed"


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole answer. Times are Unix seconds; `usage` is the object of the answer, or None."""

    id: str
    request: Request
    created_at: int
    completed_at: int
    items: tuple[Item, ...]
    status: str
    reason: str
    usage: JsonObject | None

    @property
    def token_count(self) -> int:
        """Tokens that a stream emits one by one."""
        return sum(len(item.tokens) for item in self.items)


def make_plan(request: Request, earlier_tokens: int = 0) -> Plan:
    """Decide the answer. `earlier_tokens`: input tokens of the conversation before.

    Raises `ProviderError` where a schema of the request cannot be satisfied.
    """
    behaviour = request.behaviour
    prompt = read_prompt(request.items, request.fields)
    items = _items(request, prompt)
    budget, reason = request.max_output_tokens, "max_output_tokens"
    total = sum(len(item.tokens) for item in items)
    status = "completed" if budget is None or total <= budget else "incomplete"
    if behaviour.ending != "completed":
        status, reason = behaviour.ending, "content_filter"
        budget = total // 2 if budget is None else min(budget, total // 2)
    if budget is not None and status != "completed":
        items = _cut(items, budget)
    now = int(time.time())
    count = sum(len(item.tokens) for item in items)
    return Plan(
        id=f"resp_{secrets.token_hex(16)}",
        request=request,
        created_at=now,
        completed_at=now + behaviour.token_delay_ms * count // _MS_PER_S,
        items=items,
        status=status,
        reason=reason if status == "incomplete" else "",
        usage=_usage(request, prompt.input_tokens + earlier_tokens, items) if behaviour.usage else None,
    )


def steered_plan(plan: Plan, tokens: int) -> Plan:
    """The same answer, which steering has ended behind so many tokens."""
    items = _cut(plan.items, tokens)
    told = plan.usage or {}
    usage = _usage(plan.request, told.get("input_tokens", 0), items) if plan.usage is not None else None
    return replace(plan, items=items, status="incomplete", reason="steered", completed_at=0, usage=usage)


def _items(request: Request, prompt: Prompt) -> tuple[Item, ...]:
    behaviour = request.behaviour
    items: list[Item] = []
    if behaviour.reasoning:
        items.append(_reasoning(request, prompt))
    if behaviour.extension:
        items.append(Item("sim:note", _new_id("sim"), [], []))
    calls = wanted_tools(request, prompt) if behaviour.tokens is None and behaviour.big_kib is None else []
    if calls:
        return (*items, *(_call(tool, prompt) for tool in calls))
    return (*items, Item("message", _new_id("msg"), _message_tokens(request, prompt), []))


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _message_tokens(request: Request, prompt: Prompt) -> list[str]:
    behaviour = request.behaviour
    if behaviour.big_kib is not None:
        return ["x" * (behaviour.big_kib * 1024)]
    if behaviour.tokens is not None:
        return list(islice(cycle(_CYCLE), behaviour.tokens))
    return tokens_of(_formatted(request, prompt) or reply(request, prompt))


def _formatted(request: Request, prompt: Prompt) -> str:
    """The JSON text that `text.format` asks for, else an empty string."""
    wanted = (request.fields.get("text") or {}).get("format")
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_object":
        return orjson.dumps({"simulated": True, "message": reply(request, prompt)}).decode()
    if not isinstance(wanted, dict) or kind != "json_schema":
        return ""
    return _json_for(wanted.get("schema"), prompt, "text.format.schema")


def _json_for(schema: object, prompt: Prompt, param: str) -> str:
    try:
        return orjson.dumps(fill({} if schema is None else schema, subject_of(prompt.user_text))).decode()
    except (Unsatisfiable, orjson.JSONEncodeError) as error:
        message = f"The simulator makes no value for this schema: {error}"
        raise ProviderError("invalid_field", message, param=param) from error


def _call(tool: JsonObject, prompt: Prompt) -> Item:
    schema = tool.get("parameters") or {"type": "object"}
    arguments = _json_for(schema, prompt, "tools")
    call_id = f"call_{secrets.token_hex(12)}"
    return Item("function_call", _new_id("fc"), tokens_of(arguments), [], name=tool["name"], call_id=call_id)


def _reasoning(request: Request, prompt: Prompt) -> Item:
    words = prompt.user_text.split()
    thought = f"The user wrote {len(words)} words. I am a simulator, so I restate them and say so."
    asked = (request.fields.get("reasoning") or {}).get("summary")
    include = request.fields.get("include")
    encrypted = ""
    if isinstance(include, list) and "reasoning.encrypted_content" in include:
        encrypted = "sim." + hashlib.sha256(thought.encode()).hexdigest()
    summary = tokens_of("Restating the request.") if asked else []
    return Item("reasoning", _new_id("rs"), tokens_of(thought), summary, encrypted=encrypted)


def _cut(items: tuple[Item, ...], budget: int) -> tuple[Item, ...]:
    """Keep `budget` tokens. The item that they end in is incomplete, and the last one."""
    kept: list[Item] = []
    for item in items:
        if len(item.tokens) > budget:
            return (*kept, replace(item, tokens=item.tokens[:budget], summary=[], status="incomplete"))
        kept.append(item)
        budget -= len(item.tokens)
    return tuple(kept)


def usage_of(input_tokens: int, output_tokens: int, *, cached: int = 0, reasoning: int = 0) -> JsonObject:
    """The `usage` object of the specification."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": input_tokens + output_tokens,
    }


def _usage(request: Request, input_tokens: int, items: tuple[Item, ...]) -> JsonObject:
    output = sum(len(item.tokens) for item in items)
    reasoning = sum(len(item.tokens) for item in items if item.kind == "reasoning")
    cached = input_tokens // 2 if request.behaviour.cached else 0
    usage = usage_of(input_tokens, output, cached=cached, reasoning=reasoning)
    if request.behaviour.cost:
        cost: Any = input_tokens * _USD_PER_INPUT_TOKEN + output * _USD_PER_OUTPUT_TOKEN
        usage["cost"] = round(cost, 9)
    return usage
