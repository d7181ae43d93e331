"""What an answer used: as it was reported, and as much of it as is known where a part was not. Pure.

reported_usage    the usage that the answer reports
may_lack_output   whether that counts no output: servers send zeros until they know
partial_usage     where it reports none or no output: what it and the request tell, its output estimated
input_usage       where no answer came: what was sent, as far as the request tells
"""

from __future__ import annotations

from typing import Final

from gateway.billing.settlement import input_estimate
from gateway.protocol.dialects.dialect import Json
from gateway.protocol.quantities import Usage
from gateway.protocol.usage_reader import read_usage
from gateway.proxy.admission import Admitted

_OUTPUT_AND_TOTAL: Final = frozenset({"output_tokens", "completion_tokens", "total_tokens"})
_NO_COST: Final = (None, "0")


def reported_usage(admitted: Admitted, reported: Json | None, answer: Json) -> Usage | None:
    """The usage of an answer; None where nothing sound was reported. `answer`: what of it bears on its price."""
    if reported is None:
        return None
    facts, price = admitted.request.facts, admitted.route.price
    facts = facts._replace(conditions=price.conditions) if price.conditions else facts
    usage = read_usage(admitted.target.operation.dialect.name, reported, answer, facts)
    if usage is None or usage.quantities is None or not usage.quantities.images:
        return usage
    if not (price.per_image or usage.input_tokens or usage.output_tokens):
        return None  # priced by tokens, of which nothing is reported
    return usage


def lacks_output(usage: Usage) -> bool:
    """Whether a usage counts the input alone, because its answer broke off."""
    return usage.quantities is not None and usage.quantities.lacks_output


def may_lack_output(admitted: Admitted, usage: Usage) -> bool:
    """Whether a usage counts no output, and nothing else that an answer may be charged by instead."""
    if usage.output_tokens:
        return False
    quantities = usage.quantities
    counts_more = quantities is not None and (quantities.units or quantities.images or quantities.tool_tokens)
    is_charged_as_told = admitted.route.rule.cost_source == "upstream" and usage.cost_usd not in _NO_COST
    return not (counts_more or is_charged_as_told)


def partial_usage(
    admitted: Admitted, usage: Usage | None, reported: Json | None, answer: Json, output_tokens: int
) -> Usage | None:
    """What is known where no whole usage was reported; None where neither answer nor request tell anything."""
    if usage is not None and usage.input_tokens:
        told = {name: value for name, value in (reported or {}).items() if name not in _OUTPUT_AND_TOTAL}
        return reported_usage(admitted, {**told, "output_tokens": output_tokens}, answer)
    return reported_usage(admitted, admitted.request.bounds.usage, answer)


def input_usage(admitted: Admitted) -> Usage:
    """What was sent: the units that the request states, or else the estimate of its tokens."""
    told = admitted.request.bounds.usage
    usage = None if told is None else reported_usage(admitted, {**told, "output_tokens": 0}, {})
    return input_estimate(admitted.admission.hold) if usage is None else usage
