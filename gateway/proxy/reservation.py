"""What is reserved for a request before it runs: the most that it can cost, and the tokens that limits count. Pure.

    reserve(request, operation, route, ...) -> Reservation

| what the provider may read or do         | is reserved as                                                       |
|------------------------------------------|----------------------------------------------------------------------|
| the body                                 | as many tokens as it has bytes; files and images by kind and size    |
| an earlier response that it goes on from | the input and output tokens of that response                         |
| an answer that is still being made       | what the request itself may put out                                  |
| files, URLs, prompts, conversations,     | `reserve_input_tokens` of the route, or `context_tokens` of the      |
| items by name, hosted tools              | price, or `limits.reserve_input_tokens`                              |
| images                                   | `max_image_tokens` of the price, or what no model exceeds            |
| sound whose length nobody knows          | what so many bytes can play, and the reserve above at 20 tokens a    |
|                                          | second                                                               |
| calls of hosted tools                    | the dearest of them, `max_tool_calls` times                          |
| models that hosted tools ask             | all that there is to read, `max_tool_calls` times                    |
| models that may answer instead           | the dearest of them                                                  |
| a summary of a long prompt               | the prompt and the answer once more                                  |
| an answer                                | its bound, or else what output_bound.py says                         |
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final, NamedTuple

from gateway.billing.hold import FREE, Work, WorstCase, dearest_of, with_more, worst_case
from gateway.billing.price_row import Price
from gateway.ledger.known_responses import KnownResponse
from gateway.protocol.audio_length import SLOWEST_BYTES_PER_SECOND
from gateway.protocol.dialects.audio import HEARD_TOKENS_PER_SECOND
from gateway.protocol.dialects.dialect import NO_IMAGES
from gateway.protocol.operations import Operation
from gateway.protocol.request_body import RequestBody
from gateway.protocol.token_estimates import MAX_IMAGE_TOKENS
from gateway.proxy.output_bound import OutputPlan, plan_output
from gateway.proxy.snapshot import RequestLimits
from gateway.routing.model_names import SEARCHES
from gateway.routing.router import Route, Router

_BACKGROUND_MS: Final = 86_400_000
"""Background work goes on after its request; providers give it hours."""
_SECOND: Final = "second"
_TIMES_COMPACTED: Final = 2
"""A provider that summarises reads the whole prompt and writes once, and then answers."""


class Reservation(NamedTuple):
    """`input_tokens`, `output_tokens`: what limits count, and what is charged where no usage becomes known.

    `sends_output_bound`: the provider is told how much output is held; None: if limits lower it.
    """

    input_tokens: int
    output_tokens: int
    worst: WorstCase
    sends_output_bound: bool | None = False


NO_RESERVATION: Final = Reservation(0, 0, FREE)


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
    stored = 0 if known_response is None else known_response.input_tokens + known_response.output_tokens
    unsure = known_response is not None and not known_response.settled  # these were estimates
    longest_ms = max(_BACKGROUND_MS, limits.longest_ms) if request.work.background else limits.longest_ms
    asked = _Asked(request, operation, route, router, limits, stored, unsure, now_ms, now_ms + longest_ms)
    output, worst, prompt = _of_several(asked) if route.instead else _of_row(asked, route.price)
    if request.work.advisors:
        worst = with_more(worst, _advice(asked, prompt + output.tokens))
    return Reservation(request.input_tokens_estimate + stored, output.tokens, worst, output.send)


class _Asked(NamedTuple):
    request: RequestBody
    operation: Operation
    route: Route
    router: Router
    limits: RequestLimits
    stored: int
    unsure: bool
    now_ms: int
    until_ms: int


class _Held(NamedTuple):
    output: OutputPlan
    worst: WorstCase
    prompt_tokens: int


def _of_row(asked: _Asked, price: Price, output: OutputPlan | None = None) -> _Held:
    """What is held at one price. `output`: what may be put out, where not this price alone decides."""
    request, limits, route = asked.request, asked.limits, asked.route
    body_work, row = request.work, price.at(asked.now_ms) if price.versions else price
    if output is None:
        output = plan_output(asked.operation, request, row, route, limits)
    tools, calls = body_work.tools, 0
    if SEARCHES in route.variants:
        tools = (*tools, "web_search")
    prompt = (
        max(request.input_tokens_bound, request.input_tokens_estimate) if not request.images else _shown(request, row)
    )
    prompt += asked.stored + (output.tokens if body_work.rereads_answer else 0)
    units, unheard = request.bounds.units, asked.operation.dialect.request.needs_duration and not request.bounds.units
    unseen = _unseen(row, route, limits) if body_work.unseen or asked.unsure or tools or unheard else 0
    prompt += unseen
    if (body_work.media or unheard) and _SECOND in asked.router.prices.units and _SECOND not in units:
        units = {**units, _SECOND: _seconds(request.size_bytes, unseen)}
    if tools:
        calls = _calls(asked)
    elif row.context_tokens is not None:  # a model takes no longer prompt; with tools it reads several
        prompt = min(prompt, row.context_tokens)
    number, quality, size = request.bounds.images or NO_IMAGES
    times = _TIMES_COMPACTED if body_work.compacts else 1
    work = Work(
        prompt * times,
        output.tokens * times,
        media=body_work.media or asked.stored > 0 or not asked.operation.dialect.request.has_output,
        tier=request.facts.service_tier,
        tools=tools,
        calls=calls,
        tool_tokens=limits.reserve_tool_tokens,
        images=number,
        quality=quality,
        size=size,
        units=units,
    )
    return _Held(output, worst_case(price, work, asked.now_ms, asked.until_ms, asked.router.prices), work.input_tokens)


def _shown(request: RequestBody, row: Price) -> int:
    """The most that the body's own texts, files and images come to, for the model of a row."""
    unseen = request.work.unseen_images
    bound = request.input_tokens_bound - unseen * MAX_IMAGE_TOKENS
    if row.max_image_tokens is not None:
        bound -= (request.images - unseen) * (MAX_IMAGE_TOKENS - row.max_image_tokens)
    return max(bound, request.input_tokens_estimate)


def _seconds(body_bytes: int, unseen_tokens: int) -> Decimal:
    """The longest sound that a body can hold, and may name besides, where its price counts seconds."""
    return Decimal(-(-body_bytes * 3 // (4 * SLOWEST_BYTES_PER_SECOND)) + -(-unseen_tokens // HEARD_TOKENS_PER_SECOND))


def _of_several(asked: _Asked) -> _Held:
    """What is held where another model may answer instead: the dearest of all, for what any of them may put out."""
    prices = [asked.route.price, *(price for _, price in asked.route.instead)]
    plans = [
        plan_output(asked.operation, asked.request, price.at(asked.now_ms), asked.route, asked.limits)
        for price in prices
    ]
    tokens, sends = max(plan.tokens for plan in plans), {plan.send for plan in plans}
    output = OutputPlan(tokens, send=True if True in sends else None if None in sends else False)
    held = [_of_row(asked, price, output) for price in prices]
    return _Held(output, dearest_of([one.worst for one in held], tokens), max(one.prompt_tokens for one in held))


def _calls(asked: _Asked) -> int:
    work, calls = asked.request.work, asked.route.rule.max_tool_calls
    if work.calls is not None:
        calls = work.calls
    return work.sources + (asked.limits.max_tool_calls if calls is None else calls)


def _advice(asked: _Asked, tokens: int) -> int:
    """What models that are asked by the answering one may cost: each call reads all that there is."""
    prices, route = asked.router.prices, asked.route
    rows = [prices.named(model, route.model) or route.price for model in asked.request.work.advisors]
    work = Work(tokens, asked.limits.reserve_tool_tokens)
    cases = [worst_case(row, work, asked.now_ms, asked.until_ms, prices) for row in rows]
    return _calls(asked) * max(case.amount_nano_usd for case in cases)


def _unseen(row: Price, route: Route, limits: RequestLimits) -> int:
    """How much a request may read that its body does not show."""
    of_route, context = route.rule.reserve_input_tokens, row.context_tokens
    if of_route is not None:
        return of_route
    return limits.reserve_input_tokens if context is None else context
