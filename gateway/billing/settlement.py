"""What each ending of a request costs. The policy is data; `decide` is pure.

POLICY:      outcome -> what is charged

| outcome                                             | charge                                   | settled_by     |
| refused, or failed before an upstream answered 2xx  | nothing; the hold is voided              | -              |
| sent, and no head of an answer came: client left,   | an estimate of the input, within the     | estimate       |
| timed out, shut down, reset                         | hold; nothing where the route says so    |                |
| a response that failed before any output, without   | the same                                 | estimate       |
| usage                                               |                                          |                |
| answered with usage                                 | price x usage, or the upstream's cost    | usage,         |
|                                                     | where the route says so                  | upstream_cost  |
| client left, cancelled, cut, stalled, timed out,    | usage if it was learnt, else an estimate | usage,         |
| shut down, or 2xx without usage                     | from what was relayed, within the hold   | estimate       |
| a cost that the request could not have (a usage of  | the most that is believed                | suspicious     |
| absurd size)                                        |                                          |                |
| 2xx that is no response at all (HTML, an error)     | usage if it was learnt, else nothing     | usage, -       |

An attempt that is not charged, and at which an upstream may have begun the work all the same, is journalled with the
same estimate of the input (`attempt_of`): what providers may bill is then the sum of both.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import orjson

from gateway.billing.bill import Charge as Charged
from gateway.billing.bill import charge
from gateway.billing.lifecycle import Outcome
from gateway.billing.money import NANO, MoneyError, format_usd, round_up_usd
from gateway.billing.price_row import Price
from gateway.billing.price_table import PriceTable
from gateway.protocol.quantities import Usage


class Charge(StrEnum):
    """What a row of the policy charges."""

    NOTHING = "nothing"
    USAGE_OR_NOTHING = "usage or nothing"
    USAGE_OR_ESTIMATE = "usage or estimate"


POLICY: Final = MappingProxyType(
    {
        Outcome.REFUSED: Charge.NOTHING,
        Outcome.DRY_RUN: Charge.NOTHING,
        Outcome.SERVED: Charge.NOTHING,
        Outcome.UPSTREAM_REFUSED: Charge.NOTHING,
        Outcome.UPSTREAM_UNREACHABLE: Charge.NOTHING,
        Outcome.UPSTREAM_TIMEOUT: Charge.NOTHING,
        Outcome.INVALID_ANSWER: Charge.USAGE_OR_NOTHING,
        Outcome.COMPLETED: Charge.USAGE_OR_ESTIMATE,
        Outcome.INCOMPLETE: Charge.USAGE_OR_ESTIMATE,
        Outcome.FAILED: Charge.USAGE_OR_ESTIMATE,
        Outcome.UPSTREAM_CUT: Charge.USAGE_OR_ESTIMATE,
        Outcome.UPSTREAM_STALLED: Charge.USAGE_OR_ESTIMATE,
        Outcome.TIMED_OUT: Charge.USAGE_OR_ESTIMATE,
        Outcome.CLIENT_LEFT: Charge.USAGE_OR_ESTIMATE,
        Outcome.CANCELLED: Charge.USAGE_OR_ESTIMATE,
        Outcome.SHUT_DOWN: Charge.USAGE_OR_ESTIMATE,
        Outcome.CAPPED: Charge.USAGE_OR_ESTIMATE,
        Outcome.INTERNAL_ERROR: Charge.USAGE_OR_ESTIMATE,
    }
)

FAILURES: Final = frozenset({Outcome.FAILED, Outcome.UPSTREAM_CUT, Outcome.UPSTREAM_STALLED})
"""Outcomes in which the provider failed after it had begun to answer."""

NO_PRICES: Final = PriceTable({})
SettledBy = Literal["usage", "upstream_cost", "estimate", "suspicious", "-"]


class Hold(NamedTuple):
    """A reservation in the ledger: worst case in nano-USD and tokens. `admitted_ms` is the store's time.

    `idempotency_key` is the client's own, if it sent one. `unchecked_secret` is set where the store could not be asked
    whether the API key is valid: it is the SHA-256 of the key's secret, and settlement checks it. `reserved`: the
    ledger knows of it; False for a free call, for which nothing is held. `counted`: the meters that count it, as the
    scripts name them. `day`: in the team's time zone, days after 1970-01-01; -1: as in UTC. `tags`: what its usage is
    also counted under, in the form of the script (protocol/attribution.py); "" for none. `is_followed`: it is of a call
    for a request, which then goes on under the same idempotency key. `end_user`: for whom limits of each end user
    count it, or may; "" where none does.
    """

    id: str
    team_id: str
    key_id: str
    amount_nano_usd: int
    input_tokens: int
    output_tokens: int
    admitted_ms: int
    idempotency_key: str | None = None
    unchecked_secret: str = ""
    reserved: bool = True
    counted: str = ""
    day: int = -1
    tags: str = ""
    is_followed: bool = False
    end_user: str = ""


class ExchangeResult(NamedTuple):
    """The result of step 6. `answered`: an upstream answered 2xx. `output_tokens_estimate` is from the relayed output.

    `partly` says that a part of the usage was estimated, or taken from the request.
    `begun` says that the request was sent, and no head of an answer came.
    """

    outcome: Outcome
    answered: bool = False
    usage: Usage | None = None
    output_tokens_estimate: int = 0
    partly: Usage | None = None
    begun: bool = False


class Settlement(NamedTuple):
    """What step 8 posts: "settle" with a cost and its tokens, or "void".

    `bill` is the itemised cost for the journal (bill.py). `unpriced` names quantities without a rate. `attempts` are
    earlier attempts at other upstreams that may have started the work, in the journal's form. `response_id` is the
    provider's id, under which it may list the charge. `lacks_cost` says that the upstream should have stated the cost
    and did not. `over_nano_usd` is the part of the cost that was not held. `pauses` says that the team is stopped for
    that. `made_by` is the request that made the response, where a later request shows what it cost.
    """

    hold: Hold
    kind: Literal["settle", "void"]
    cost_nano_usd: int
    usage: Usage
    settled_by: SettledBy
    outcome: Outcome
    model: str
    upstream: str
    bill: str = ""
    unpriced: tuple[str, ...] = ()
    attempts: tuple[str, ...] = ()
    response_id: str = ""
    pauses: bool = False
    lacks_cost: bool = False
    over_nano_usd: int = 0
    made_by: str = ""


class Terms(NamedTuple):
    """The terms of a settlement. `ended_ms` is when the answer ended, in ms since 1970. `prices` are all price rows.

    `charge_unanswered` says whether the input is charged if no head of an answer came. `charge_failed_input` says
    whether it is if a response failed before any output and without usage.
    `answered` is the model of the price, if another one was asked for. `unlisted` is a model that answered and has no
    price. `pause_on_overrun` says that a cost above the hold stops the team.
    """

    price: Price
    model: str
    upstream: str
    ended_ms: int
    prices: PriceTable = NO_PRICES
    trust_upstream_cost: bool = False
    charge_unanswered: bool = True
    charge_failed_input: bool = True
    answered: str = ""
    unlisted: str = ""
    pause_on_overrun: bool = False


NO_USAGE: Final = Usage(0, 0, 0, 0, 0, None)


def void(hold: Hold, outcome: Outcome) -> Settlement:
    """Returns the settlement that charges nothing and gives the hold back."""
    return Settlement(hold, "void", 0, NO_USAGE, "-", outcome, "", "")


def decide(result: ExchangeResult, hold: Hold, terms: Terms) -> Settlement:
    """Step 7: decides what an outcome costs, by `POLICY`."""
    policy = POLICY[result.outcome]
    if not result.answered:
        policy = Charge.USAGE_OR_ESTIMATE if result.begun and terms.charge_unanswered else Charge.NOTHING
    elif result.outcome in FAILURES and not terms.charge_failed_input and not result.output_tokens_estimate:
        policy = Charge.USAGE_OR_NOTHING
    if result.usage is not None and policy is not Charge.NOTHING:
        settlement = _by_usage(result.usage, hold, terms, result.outcome)
        return settlement if not terms.trust_upstream_cost else _missed(settlement)
    if policy is Charge.USAGE_OR_ESTIMATE:
        usage = _estimate(result, hold) if result.partly is None else result.partly
        settlement = _by_estimate(usage, hold, terms, result.outcome)
        return settlement if not terms.trust_upstream_cost else _missed(settlement)
    return Settlement(hold, "void", 0, NO_USAGE, "-", result.outcome, terms.model, terms.upstream)


WHOLE: Final = frozenset({Outcome.COMPLETED, Outcome.INCOMPLETE})
"""Outcomes with a whole answer."""


def _missed(settlement: Settlement) -> Settlement:
    """Notes that the upstream should have stated the cost of a whole answer and did not."""
    lacks_cost = settlement.outcome in WHOLE and settlement.settled_by in ("usage", "estimate")
    return settlement._replace(lacks_cost=lacks_cost)


def attempt_of(upstream: str, reason: str, usage: Usage, hold: Hold, terms: Terms) -> str:
    """Returns a failed attempt that may have begun the work, in the journal's form: JSON.

    `reason` is a status, a fault or how the attempt was ended. `usage` is the estimate of the input.
    """
    cost = min(_charge(usage, terms).nano_usd, hold.amount_nano_usd)
    told = {
        "upstream": upstream,
        "reason": reason,
        "settled_by": "attempt",
        "input_tokens": usage.input_tokens,
        "estimate_usd": format_usd(cost),
    }
    return orjson.dumps(told).decode()


def input_estimate(hold: Hold) -> Usage:
    """Returns the input as it was estimated at admission, without output."""
    return Usage(hold.input_tokens, 0, 0, 0, hold.input_tokens, None)


MAX_MULTIPLE_OF_HOLD: Final = 100
MAX_EXCESS_NANO_USD: Final = 10 * NANO
MAX_USAGE_TOKENS: Final = 10_000_000


def believable_nano_usd(hold: Hold) -> int:
    """Returns the most that one request is charged, whatever its upstream reports.

    The hold is the worst case of the request. An upstream may bill more than that (for a hosted tool, or for unbounded
    output), but not a hundred times as much, and not over 10 USD more if the hold is small.
    """
    return max(hold.amount_nano_usd * MAX_MULTIPLE_OF_HOLD, hold.amount_nano_usd + MAX_EXCESS_NANO_USD)


def _by_usage(usage: Usage, hold: Hold, terms: Terms, outcome: Outcome) -> Settlement:
    settlement = _as_told(usage, hold, terms, outcome)
    max_nano_usd = believable_nano_usd(hold)
    if settlement.cost_nano_usd > max_nano_usd:
        settlement = settlement._replace(
            cost_nano_usd=max_nano_usd, settled_by="suspicious", usage=_bounded(usage, hold), bill="", unpriced=()
        )
    over_nano_usd = overrun_nano_usd(settlement.cost_nano_usd, hold.amount_nano_usd)
    if not over_nano_usd:
        return settlement
    return settlement._replace(over_nano_usd=over_nano_usd, pauses=terms.pause_on_overrun)


def overrun_nano_usd(cost_nano_usd: int, held_nano_usd: int) -> int:
    """The part of a cost that was not held; 0 where nothing was, or nobody knows how much."""
    return max(0, cost_nano_usd - held_nano_usd) if held_nano_usd else 0


def _bounded(usage: Usage, hold: Hold) -> Usage:
    max_input, max_output = (
        max(MAX_MULTIPLE_OF_HOLD * tokens, MAX_USAGE_TOKENS) for tokens in (hold.input_tokens, hold.output_tokens)
    )
    input_tokens, output_tokens = min(usage.input_tokens, max_input), min(usage.output_tokens, max_output)
    return usage._replace(
        input_tokens=input_tokens,
        cached_input_tokens=min(usage.cached_input_tokens, input_tokens),
        output_tokens=output_tokens,
        reasoning_tokens=min(usage.reasoning_tokens, output_tokens),
        total_tokens=input_tokens + output_tokens,
    )


def _as_told(usage: Usage, hold: Hold, terms: Terms, outcome: Outcome) -> Settlement:
    model, upstream = terms.model, terms.upstream
    if (
        terms.trust_upstream_cost
        and usage.cost_usd is not None
        and (cost := _upstream_cost(usage.cost_usd)) is not None
    ):
        return Settlement(hold, "settle", cost, usage, "upstream_cost", outcome, model, upstream)
    price, ended_ms, prices = terms.price, terms.ended_ms, terms.prices
    charged = charge(price, usage, ended_ms, prices, model, terms.answered, terms.unlisted)
    return Settlement(
        hold, "settle", charged.nano_usd, usage, "usage", outcome, model, upstream, charged.bill, charged.unpriced
    )


def _upstream_cost(text: str) -> int | None:
    try:
        return round_up_usd(text)
    except MoneyError:
        return None


def _by_estimate(usage: Usage, hold: Hold, terms: Terms, outcome: Outcome) -> Settlement:
    charged = _charge(usage, terms)
    cost = min(charged.nano_usd, hold.amount_nano_usd)
    return Settlement(hold, "settle", cost, usage, "estimate", outcome, terms.model, terms.upstream, charged.bill)


def _charge(usage: Usage, terms: Terms) -> Charged:
    return charge(terms.price, usage, terms.ended_ms, terms.prices, terms.model, terms.answered, terms.unlisted)


def _estimate(result: ExchangeResult, hold: Hold) -> Usage:
    if not result.answered:
        return input_estimate(hold)
    output = min(result.output_tokens_estimate, hold.output_tokens)
    return Usage(hold.input_tokens, 0, output, 0, hold.input_tokens + output, None)
