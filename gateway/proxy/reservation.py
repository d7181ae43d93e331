"""What is reserved for a request before it runs: the most that it can cost, and the tokens that limits count. Pure.

    reserve(request, form, route, ...) -> Reservation

| what the provider may read or do         | is reserved as                                                       |
|------------------------------------------|----------------------------------------------------------------------|
| the body                                 | as many tokens as it has bytes; files and images by kind and size    |
| an earlier response that it goes on from | the input and output tokens of that response                         |
| files, URLs, prompts, conversations,     | `reserve_input_tokens` of the route, or `context_tokens` of the      |
| items by name, hosted tools              | price, or `limits.reserve_input_tokens`                              |
| calls of hosted tools                    | the dearest of them, `max_tool_calls` times                          |
| an answer                                | its `max_output_tokens`, or the route's default, or `context_tokens` |
|                                          | of the price, or `limits.default_max_output_tokens`                  |
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.billing.hold import FREE, Work, WorstCase, worst_case
from gateway.ledger.known_responses import KnownResponse
from gateway.protocol.dialects.dialect import NO_IMAGES, RequestForm
from gateway.protocol.request_body import RequestBody
from gateway.proxy.snapshot import RequestLimits
from gateway.routing.router import Route, Router

_BACKGROUND_MS: Final = 86_400_000
"""Background work goes on after its request; providers give it hours."""


class Reservation(NamedTuple):
    """`input_tokens`, `output_tokens`: what limits count, and what is charged where no usage becomes known."""

    input_tokens: int
    output_tokens: int
    worst: WorstCase


NOTHING: Final = Reservation(0, 0, FREE)


def reserve(
    request: RequestBody,
    form: RequestForm,
    route: Route,
    router: Router,
    limits: RequestLimits,
    known_response: KnownResponse | None,
    now_ms: int,
) -> Reservation:
    """What a request that may begin work reserves; `now_ms`: milliseconds since 1970."""
    price, body_work, bounds = route.price, request.work, request.bounds
    stored = 0 if known_response is None else known_response.input_tokens + known_response.output_tokens
    prompt = max(request.input_tokens_bound, request.input_tokens_estimate) + stored
    calls = 0
    if body_work.unseen:
        prompt += _unseen(route, limits)
    if body_work.tools:
        most = limits.max_tool_calls if route.rule.max_tool_calls is None else route.rule.max_tool_calls
        calls = most if body_work.calls is None else body_work.calls
    elif price.context_tokens is not None:  # a model takes no longer prompt; with tools it reads several
        prompt = min(prompt, price.context_tokens)
    number, quality, size = bounds.images or NO_IMAGES
    output_tokens = _output(request, form, route, limits)
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
    return Reservation(request.input_tokens_estimate + stored, output_tokens, worst)


def _output(request: RequestBody, form: RequestForm, route: Route, limits: RequestLimits) -> int:
    """How much a request may put out, all its runs together."""
    if request.max_output_tokens is not None or not form.has_output:
        return request.max_output_tokens or 0
    bounds = request.bounds
    default = route.rule.default_max_output_tokens or route.price.context_tokens or limits.default_max_output_tokens
    return default * bounds.runs + bounds.more_output_tokens


def _unseen(route: Route, limits: RequestLimits) -> int:
    """How much a request may read that its body does not show."""
    of_route, context = route.rule.reserve_input_tokens, route.price.context_tokens
    if of_route is not None:
        return of_route
    return limits.reserve_input_tokens if context is None else context
