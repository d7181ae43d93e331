"""Explains what the gateway would charge for a usage or an answer.

explain(question, router)     -> the lines of the cost, the price row and its version, and what no price covers
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.billing.bill import Charge, bill_json, charge, read_bill
from gateway.billing.money import MoneyError, format_usd, round_up_usd
from gateway.errors import GatewayError
from gateway.protocol.dialects.dialect import Dialect, Json, count, member
from gateway.protocol.model_spelling import folded
from gateway.protocol.operations import OPERATIONS
from gateway.protocol.quantities import Usage
from gateway.protocol.request_facts import read_facts
from gateway.protocol.usage_reader import read_usage
from gateway.proxy.answered_price import PricedBy, priced_by
from gateway.routing.router import Route, Router

_DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {operation.dialect.name: operation.dialect for operation in OPERATIONS}
)
_ANSWER_MEMBERS: Final = frozenset(
    {"usage", "x_groq", "object", "choices", "output", "data", "content", "results", "meta", "usage_info", "duration"}
)
"""Members that occur in answers and not in usage objects."""
_BY_OBJECT: Final[Mapping[str, str]] = MappingProxyType(
    {"response": "responses", "chat.completion": "chat", "text_completion": "completions"}
)


class PriceQuestion(NamedTuple):
    """A question. `given` is a usage or an answer. `ended_ms`: milliseconds since 1970. `request`: its body, or {}."""

    model: str
    given: Json
    dialect: str | None
    ended_ms: int
    request: Json


class NotExplainable(Exception):
    """A usage cannot be read, or has no price. `is_usage`: the question itself is invalid."""

    def __init__(self, message: str, *, is_usage: bool = False) -> None:
        super().__init__(message)
        self.is_usage = is_usage


def explain(question: PriceQuestion, router: Router) -> dict[str, Any]:
    """Returns the cost of a usage as JSON: that of `requests show`, with the row, its version and the sum.

    Raises Unexplained if there is no route or no price for the model, or nothing can be read.
    """
    try:
        route = router.resolve(question.model)
    except GatewayError as error:
        raise NotExplainable(str(error)) from None
    given = _unwrapped(question.given)
    answer = {"usage": given} if _ANSWER_MEMBERS.isdisjoint(given) else given
    dialect = question.dialect or _dialect_of(answer)
    usage = _usage(question, route, dialect, answer)
    by = priced_by(route, router, answer.get("model")) if route.is_priced_by_answer else PricedBy(route.price)
    charged = charge(by.price, usage, question.ended_ms, router.prices, route.model, by.model, by.unlisted)
    own = _own_cost_nano_usd(usage) if route.rule.cost_source == "upstream" else None
    return {
        "cost_usd": format_usd(charged.nano_usd if own is None else own),
        "model": route.model,
        "row": _row_of(route, router, by),
        "in_force_from": by.price.at(question.ended_ms).version or None,
        "dialect": dialect,
        "at": datetime.fromtimestamp(question.ended_ms / 1000, UTC).isoformat().replace("+00:00", "Z"),
        "note": _note(route, own),
        **_lines(charged, usage),
    }


def _unwrapped(given: Json) -> Json:
    """Returns the answer inside an event of a stream (`response.completed`), or what was given."""
    inner = given.get("response")
    return inner if isinstance(inner, dict) and isinstance(given.get("type"), str) else given


def _dialect_of(given: Json) -> str:
    """Returns the dialect that an answer names, or the one whose fields a usage has."""
    kind = given.get("object")
    if isinstance(kind, str) and kind in _BY_OBJECT:
        return _BY_OBJECT[kind]
    if given.get("type") == "message":
        return "messages"
    names = member(given, "usage") or {}
    if "prompt_tokens" in names or "completion_tokens" in names:
        return "chat"
    is_messages = "cache_read_input_tokens" in names or "cache_creation_input_tokens" in names
    return "messages" if is_messages and "input_tokens_details" not in names else "responses"


def _reported(dialect: Dialect, answer: Json) -> Json | None:
    """Returns the usage that an answer reports, or the counts in an answer that is incomplete."""
    usage = dialect.read_answer(answer).usage
    stated = member(answer, "usage") or {}
    return stated if usage is None and any(count(value) for value in stated.values()) else usage


def _usage(question: PriceQuestion, route: Route, dialect: str, answer: Json) -> Usage:
    if dialect not in _DIALECTS:
        raise NotExplainable(f"{dialect!r} is no dialect: it is one of {', '.join(sorted(_DIALECTS))}", is_usage=True)
    facts = read_facts(question.request)
    if route.price.conditions:
        facts = facts._replace(conditions=route.price.conditions)
    reported = _reported(_DIALECTS[dialect], answer)
    usage = None if reported is None else read_usage(dialect, reported, answer, facts)
    if usage is None:
        raise NotExplainable(
            f"no usage can be read here as {dialect}: the gateway would charge an estimate. Another --dialect may fit"
        )
    return usage


def _lines(charged: Charge, usage: Usage) -> dict[str, Any]:
    bill = read_bill(charged.bill, usage)
    if bill is None:
        raise NotExplainable("the bill cannot be read again: this is a defect of the gateway")
    written = bill_json(bill)
    unpriced = tuple(dict.fromkeys((*bill.unpriced, *charged.unpriced)))
    return {**written, "unpriced": list(unpriced), "contradictions": list(bill.contradictions)}


def _row_of(route: Route, router: Router, by: PricedBy) -> str:
    """Returns the pattern whose row is used, as the configuration spells it."""
    rows = router.prices.prices
    if by.model:
        return next((pattern for pattern, row in rows.items() if row is by.price), by.model)
    spelt = {folded(pattern): pattern for pattern in rows}
    return next(spelt[pattern] for pattern in route.patterns if pattern in spelt)


def _own_cost_nano_usd(usage: Usage) -> int | None:
    try:
        return None if usage.cost_usd is None else round_up_usd(usage.cost_usd)
    except MoneyError:
        return None


def _note(route: Route, own: int | None) -> str | None:
    if route.rule.cost_source != "upstream":
        return None
    if own is None:
        return "the route charges the upstream's own cost, which is not stated here: these lines are charged"
    return "the route charges the upstream's own cost, not these lines"
