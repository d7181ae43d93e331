"""The reservation of a request before it runs: its highest possible cost, and the tokens that limits count. Pure.

    reserve(request, operation, route, ...) -> Reservation

| what the provider may read or do         | what is reserved for it                                              |
|------------------------------------------|----------------------------------------------------------------------|
| the body                                 | as many tokens as it has bytes; files and images by kind and size    |
| an earlier response that it continues    | the input and output tokens of that response                         |
| an answer that is still being made       | what the request itself may put out                                  |
| files, URLs, prompts, conversations,     | `reserve_input_tokens` of the route, or `context_tokens` of the      |
| items by name, hosted tools              | price, or `limits.reserve_input_tokens`                              |
| images                                   | `max_image_tokens` of the price, or the maximum of all models        |
| audio of unknown duration                | the longest duration that its bytes can have, and the reserve above  |
|                                          | at 20 tokens per second                                              |
| calls of hosted tools                    | `max_tool_calls` times the price of the most expensive tool          |
| models that hosted tools call            | `max_tool_calls` times the whole input and output                    |
| models that may answer instead           | the price of the most expensive model                                |
| a summary of a long prompt               | the prompt and the answer once more                                  |
| an answer                                | its bound, or else the one that output_bound.py chooses              |
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final, NamedTuple

from gateway.billing.hold import FREE, Work, WorstCase, with_more, worst_case, worst_of
from gateway.billing.price_row import Price
from gateway.ledger.known_responses import KnownResponse
from gateway.protocol.audio_length import SLOWEST_BYTES_PER_SECOND
from gateway.protocol.dialects.audio import AUDIO_TOKENS_PER_SECOND
from gateway.protocol.dialects.dialect import NO_IMAGES
from gateway.protocol.operations import Operation
from gateway.protocol.request_body import RequestBody
from gateway.protocol.token_estimates import MAX_IMAGE_TOKENS
from gateway.proxy.output_bound import OutputPlan, plan_output
from gateway.proxy.snapshot import RequestLimits
from gateway.routing.model_names import SEARCHES
from gateway.routing.router import Route, Router

_BACKGROUND_MS: Final = 86_400_000
"""Background work continues after its request. Providers let it run for hours."""
_SECOND: Final = "second"
_TIMES_COMPACTED: Final = 2
"""A provider that compacts a prompt reads it and writes a summary before it answers."""


class Reservation(NamedTuple):
    """The reservation of a request.

    `input_tokens` and `output_tokens` count at token limits, and are charged if the usage stays unknown. `worst` is the
    highest cost. `sends_output_bound`: whether the provider gets the bound on the output. None: only if a limit lowers
    it.
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
    """Returns the reservation of a request that may start work. `now_ms`: milliseconds since 1970."""
    earlier_tokens = 0 if known_response is None else known_response.input_tokens + known_response.output_tokens
    is_earlier_estimated = known_response is not None and not known_response.settled
    max_duration_ms = max(_BACKGROUND_MS, limits.max_duration_ms) if request.work.background else limits.max_duration_ms
    inputs = _Inputs(
        request,
        operation,
        route,
        router,
        limits,
        earlier_tokens,
        is_earlier_estimated,
        now_ms,
        now_ms + max_duration_ms,
    )
    output, worst, prompt = _reserve_highest(inputs) if route.instead else _reserve_at_price(inputs, route.price)
    if request.work.advisors:
        worst = with_more(worst, _advisor_cost_nano_usd(inputs, prompt + output.tokens))
    return Reservation(request.input_tokens_estimate + earlier_tokens, output.tokens, worst, output.send)


class _Inputs(NamedTuple):
    request: RequestBody
    operation: Operation
    route: Route
    router: Router
    limits: RequestLimits
    earlier_tokens: int
    is_earlier_estimated: bool
    now_ms: int
    until_ms: int


class _RowReservation(NamedTuple):
    output: OutputPlan
    worst: WorstCase
    prompt_tokens: int


def _reserve_at_price(inputs: _Inputs, price: Price, output: OutputPlan | None = None) -> _RowReservation:
    """Returns what is reserved at one price. `output` is planned by this price unless it is given."""
    request, limits, route = inputs.request, inputs.limits, inputs.route
    body_work, row = request.work, price.at(inputs.now_ms) if price.versions else price
    if output is None:
        output = plan_output(inputs.operation, request, row, route, limits)
    tools, calls = body_work.tools, 0
    if SEARCHES in route.variants:
        tools = (*tools, "web_search")
    prompt = (
        max(request.input_tokens_bound, request.input_tokens_estimate)
        if not request.images
        else _visible_input_tokens(request, row)
    )
    prompt += inputs.earlier_tokens + (output.tokens if body_work.rereads_answer else 0)
    units = request.bounds.units
    is_duration_unknown = inputs.operation.dialect.request.needs_duration and not units
    reads_hidden = body_work.unseen or inputs.is_earlier_estimated or tools or is_duration_unknown
    hidden_tokens = _hidden_input_tokens(row, route, limits) if reads_hidden else 0
    prompt += hidden_tokens
    if (body_work.media or is_duration_unknown) and _SECOND in inputs.router.prices.units and _SECOND not in units:
        units = {**units, _SECOND: _max_audio_seconds(request.size_bytes, hidden_tokens)}
    if tools:
        calls = _max_tool_calls(inputs)
    elif row.context_tokens is not None:  # without tools the model reads one prompt, which cannot be longer
        prompt = min(prompt, row.context_tokens)
    number, quality, size = request.bounds.images or NO_IMAGES
    times = _TIMES_COMPACTED if body_work.compacts else 1
    work = Work(
        prompt * times,
        output.tokens * times,
        media=body_work.media or inputs.earlier_tokens > 0 or not inputs.operation.dialect.request.has_output,
        tier=request.facts.service_tier,
        tools=tools,
        calls=calls,
        tool_tokens=limits.reserve_tool_tokens,
        images=number,
        quality=quality,
        size=size,
        units=units,
    )
    return _RowReservation(
        output, worst_case(price, work, inputs.now_ms, inputs.until_ms, inputs.router.prices), work.input_tokens
    )


def _visible_input_tokens(request: RequestBody, row: Price) -> int:
    """Returns the most tokens that the texts, files and images in the body can have for the model of a row."""
    hidden_tokens = request.work.unseen_images
    bound = request.input_tokens_bound - hidden_tokens * MAX_IMAGE_TOKENS
    if row.max_image_tokens is not None:
        bound -= (request.images - hidden_tokens) * (MAX_IMAGE_TOKENS - row.max_image_tokens)
    return max(bound, request.input_tokens_estimate)


def _max_audio_seconds(body_bytes: int, unseen_tokens: int) -> Decimal:
    """Returns the longest audio, in seconds, that a body can contain or refer to."""
    return Decimal(-(-body_bytes * 3 // (4 * SLOWEST_BYTES_PER_SECOND)) + -(-unseen_tokens // AUDIO_TOKENS_PER_SECOND))


def _reserve_highest(inputs: _Inputs) -> _RowReservation:
    """Returns what is reserved if other models may answer: the highest price, for the longest output of any model."""
    prices = [inputs.route.price, *(price for _, price in inputs.route.instead)]
    plans = [
        plan_output(inputs.operation, inputs.request, price.at(inputs.now_ms), inputs.route, inputs.limits)
        for price in prices
    ]
    tokens, sends = max(plan.tokens for plan in plans), {plan.send for plan in plans}
    output = OutputPlan(tokens, send=True if True in sends else None if None in sends else False)
    held = [_reserve_at_price(inputs, price, output) for price in prices]
    return _RowReservation(
        output, worst_of([one.worst for one in held], tokens), max(one.prompt_tokens for one in held)
    )


def _max_tool_calls(inputs: _Inputs) -> int:
    work, calls = inputs.request.work, inputs.route.rule.max_tool_calls
    if work.calls is not None:
        calls = work.calls
    return work.sources + (inputs.limits.max_tool_calls if calls is None else calls)


def _advisor_cost_nano_usd(inputs: _Inputs, tokens: int) -> int:
    """Returns the cost of the models that the answering model may call.

    Each call may read the whole input and output.
    """
    prices, route = inputs.router.prices, inputs.route
    rows = [prices.named(model, route.model) or route.price for model in inputs.request.work.advisors]
    work = Work(tokens, inputs.limits.reserve_tool_tokens)
    cases = [worst_case(row, work, inputs.now_ms, inputs.until_ms, prices) for row in rows]
    return _max_tool_calls(inputs) * max(case.amount_nano_usd for case in cases)


def _hidden_input_tokens(row: Price, route: Route, limits: RequestLimits) -> int:
    """Returns how many tokens the provider may read that are not in the body."""
    route_reserve, context = route.rule.reserve_input_tokens, row.context_tokens
    if route_reserve is not None:
        return route_reserve
    return limits.reserve_input_tokens if context is None else context
