"""How much output a hold covers if the request states no bound, and whether the provider gets that bound. Pure.

| `send_max_output_tokens` | held                                                            | sent                   |
|--------------------------|-----------------------------------------------------------------|------------------------|
| "auto"                   | the route's default, else what the API documents for such a     | if the model can put   |
|                          | body, else the model's own maximum as its price row states it,  | out more than is held  |
|                          | else `limits.default_max_output_tokens`                         |                        |
| true                     | the same, without the model's own maximum                       | always                 |
| false                    | the route's default, else the model's own maximum, else         | never                  |
|                          | `limits.default_max_output_tokens`                              |                        |

The model's own maximum is `max_output_tokens` of its price row, or else `context_tokens`. A limit of the key or the
team may lower what is held, and the lower bound is then sent. If output is free, "auto" sends a bound only in that
case.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.billing.price_row import Price
from gateway.errors import GatewayError
from gateway.protocol.operations import Operation
from gateway.protocol.request_body import RequestBody
from gateway.proxy.snapshot import RequestLimits
from gateway.routing.router import Route


class OutputPlan(NamedTuple):
    """The output that is held for a request, for all its runs together.

    `send`: whether the provider gets this bound. None: only if a limit lowers what is held.
    """

    tokens: int
    send: bool | None = False


def plan_output(
    operation: Operation, request: RequestBody, row: Price, route: Route, limits: RequestLimits
) -> OutputPlan:
    """Plans the output of a request. `row` is the version of its price row that is in force."""
    form, bounds, rule = operation.dialect.request, request.bounds, route.rule
    if request.max_output_tokens is not None or not form.has_output:
        return OutputPlan(request.max_output_tokens or 0)
    send = limits.send_max_output_tokens if rule.send_max_output_tokens is None else rule.send_max_output_tokens
    if not (form.output_fields and operation.bounds_output):
        send = False
    model_max, route_default = row.own_output_tokens, rule.default_max_output_tokens
    if route_default is not None:
        tokens_per_run = route_default
    elif send is not False and form.documented_output is not None:
        tokens_per_run = form.documented_output
    elif send is True or model_max is None:
        tokens_per_run = limits.default_max_output_tokens
    else:
        tokens_per_run = model_max
    if model_max is not None:
        tokens_per_run = min(tokens_per_run, model_max)
    tokens = tokens_per_run * bounds.runs + bounds.more_output_tokens
    if send != "auto":
        return OutputPlan(tokens, send)
    return OutputPlan(tokens, None if tokens_per_run == model_max or not row.plain.rates["output"] else True)


def bound_per_run(request: RequestBody, held_tokens: int) -> int:
    """Returns the bound of each run, for the provider. Raises GatewayError if less than one token per run is held."""
    bounds = request.bounds
    per_run = (held_tokens - bounds.more_output_tokens) // bounds.runs
    if per_run < 1:
        raise GatewayError(
            "invalid_field",
            f"This key may ask for {held_tokens} output tokens at most: too few for {bounds.runs} answers.",
            param="n",
        )
    return per_run
