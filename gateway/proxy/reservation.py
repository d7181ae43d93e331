"""What is reserved for a request before it runs: the most that it can cost, and the tokens that limits count. Pure.

    reserve(request, operation, route, ...) -> Reservation

| what the provider may read or do         | is reserved as                                                       |
|------------------------------------------|----------------------------------------------------------------------|
| the body                                 | as many tokens as it has bytes; files and images by kind and size    |
| an earlier response that it goes on from | the input and output tokens of that response                         |
| files, URLs, prompts, conversations,     | `reserve_input_tokens` of the route, or `context_tokens` of the      |
| items by name, hosted tools              | price, or `limits.reserve_input_tokens`                              |
| calls of hosted tools                    | the dearest of them, `max_tool_calls` times                          |
| an answer                                | its bound, or else what output_bound.py says                         |
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.billing.hold import FREE, Work, WorstCase, worst_case
from gateway.billing.price_row import Price
from gateway.ledger.known_responses import KnownResponse
from gateway.protocol.dialects.dialect import NO_IMAGES
from gateway.protocol.operations import Operation
from gateway.protocol.request_body import RequestBody
from gateway.proxy.output_bound import plan_output
from gateway.proxy.snapshot import RequestLimits
from gateway.routing.router import Route, Router

_BACKGROUND_MS: Final = 86_400_000
"""Background work goes on after its request; providers give it hours."""


class Reservation(NamedTuple):
    """`input_tokens`, `output_tokens`: what limits count, and what is charged where no usage becomes known.

    `sends_output_bound`: the provider is told how much output is held; None: if limits lower it.
    """

    input_tokens: int
    output_tokens: int
    worst: WorstCase
    sends_output_bound: bool | None = False


NOTHING: Final = Reservation(0, 0, FREE)


def reserve(
    request: RequestBody,
    operation: Operation,
    route: Route,
    router: Router,
    limits: RequestLimits,
    known_response: KnownResponse | None,
    now_ms: int,
) -> Reservation:
    """What a request that may begin work reserves; `now_ms`: milliseconds since 1970."""
    price, body_work, bounds, form = route.price, request.work, request.bounds, operation.dialect.request
    row = price.at(now_ms) if price.versions else price
    stored = 0 if known_response is None else known_response.input_tokens + known_response.output_tokens
    prompt = max(request.input_tokens_bound, request.input_tokens_estimate) + stored
    calls = 0
    if body_work.unseen:
        prompt += _unseen(row, route, limits)
    if body_work.tools:
        most = limits.max_tool_calls if route.rule.max_tool_calls is None else route.rule.max_tool_calls
        calls = most if body_work.calls is None else body_work.calls
    elif row.context_tokens is not None:  # a model takes no longer prompt; with tools it reads several
        prompt = min(prompt, row.context_tokens)
    number, quality, size = bounds.images or NO_IMAGES
    output_tokens, sends_bound = plan_output(operation, request, row, route, limits)
    work = Work(
        prompt,
        output_tokens,
        media=body_work.media or stored > 0 or not form.has_output,
        tier=request.facts.service_tier,
        tools=body_work.tools,
        calls=calls,
        tool_tokens=limits.reserve_tool_tokens,
        images=number,
        quality=quality,
        size=size,
        units=bounds.units,
    )
    until_ms = now_ms + (max(_BACKGROUND_MS, limits.longest_ms) if body_work.background else limits.longest_ms)
    worst = worst_case(price, work, now_ms, until_ms, router.prices)
    return Reservation(request.input_tokens_estimate + stored, output_tokens, worst, sends_bound)


def _unseen(row: Price, route: Route, limits: RequestLimits) -> int:
    """How much a request may read that its body does not show."""
    of_route, context = route.rule.reserve_input_tokens, row.context_tokens
    if of_route is not None:
        return of_route
    return limits.reserve_input_tokens if context is None else context
