"""The usage of an answer: as it was reported, or with estimates for the parts that were not. Pure.

reported_usage    the usage that the answer reports
may_lack_output   whether that usage counts no output, as servers report it before they know
partial_usage     the usage of an answer that reports none or no output, with an estimate of its output
input_usage       the usage of a request without an answer: what was sent
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
    """Returns the usage of an answer, or None if it reports no valid one.

    `answer`: its fields that affect the price.
    """
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
    """Whether a usage counts only the input, because its answer broke off."""
    return usage.quantities is not None and usage.quantities.lacks_output


def may_lack_output(admitted: Admitted, usage: Usage) -> bool:
    """Whether a usage counts neither output tokens nor anything else by which output is charged."""
    if usage.output_tokens:
        return False
    quantities = usage.quantities
    counts_more = quantities is not None and (quantities.units or quantities.images or quantities.tool_tokens)
    has_upstream_cost = admitted.route.rule.cost_source == "upstream" and usage.cost_usd not in _NO_COST
    return not (counts_more or has_upstream_cost)


def partial_usage(
    admitted: Admitted, usage: Usage | None, reported: Json | None, answer: Json, output_tokens: int
) -> Usage | None:
    """Returns a usage with estimated output. None: neither the answer nor the request states the input."""
    if usage is not None and usage.input_tokens:
        reported_counts = {name: value for name, value in (reported or {}).items() if name not in _OUTPUT_AND_TOTAL}
        return reported_usage(admitted, {**reported_counts, "output_tokens": output_tokens}, answer)
    return reported_usage(admitted, admitted.request.bounds.usage, answer)


def input_usage(admitted: Admitted) -> Usage:
    """Returns the usage of the input: the units that the request states, or else the estimate of its tokens."""
    reported_counts = admitted.request.bounds.usage
    usage = None if reported_counts is None else reported_usage(admitted, {**reported_counts, "output_tokens": 0}, {})
    return input_estimate(admitted.admission.hold) if usage is None else usage
