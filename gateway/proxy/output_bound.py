"""How much output is held for a request that states no bound, and whether its provider is told. Pure.

| `send_max_output_tokens` | held                                                            | sent                   |
|--------------------------|-----------------------------------------------------------------|------------------------|
| "auto"                   | the route's default, else what the API documents for such a     | where the model may    |
|                          | body, else the model's own maximum as its price row states it,  | put out more than held |
|                          | else `limits.default_max_output_tokens`                         |                        |
| true                     | the same, without the model's own maximum                       | always                 |
| false                    | the route's default, else the model's own maximum, else         | never                  |
|                          | `limits.default_max_output_tokens`                              |                        |

The model's own maximum is `max_output_tokens` of its price row, or else `context_tokens`. A limit of the key or the
team may lower what is held; then that is sent. Where output is free, "auto" sends nothing else.
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
    """What is held for a request, all its runs together. `send`: True, False, or None: if less comes to be held."""

    tokens: int
    send: bool | None = False


def plan_output(
    operation: Operation, request: RequestBody, row: Price, route: Route, limits: RequestLimits
) -> OutputPlan:
    """The output of a request that may begin work. `row`: the version of its price that is in force."""
    form, bounds, rule = operation.dialect.request, request.bounds, route.rule
    if request.max_output_tokens is not None or not form.has_output:
        return OutputPlan(request.max_output_tokens or 0)
    send = limits.send_max_output_tokens if rule.send_max_output_tokens is None else rule.send_max_output_tokens
    if not (form.output_fields and operation.bounds_output):
        send = False
    own, of_route = row.own_output_tokens, rule.default_max_output_tokens
    if of_route is not None:
        held = of_route
    elif send is not False and form.documented_output is not None:
        held = form.documented_output
    elif send is True or own is None:
        held = limits.default_max_output_tokens
    else:
        held = own
    if own is not None:
        held = min(held, own)
    tokens = held * bounds.runs + bounds.more_output_tokens
    if send != "auto":
        return OutputPlan(tokens, send)
    return OutputPlan(tokens, None if held == own or not row.plain.rates["output"] else True)


def bound_of_a_run(request: RequestBody, held_tokens: int) -> int:
    """The bound that goes to the provider. Raises GatewayError where less is held than one token a run."""
    bounds = request.bounds
    per_run = (held_tokens - bounds.more_output_tokens) // bounds.runs
    if per_run < 1:
        raise GatewayError(
            "invalid_field",
            f"This key may ask for {held_tokens} output tokens at most: too few for {bounds.runs} answers.",
            param="n",
        )
    return per_run
