"""The settlement policy, row by row, and the states that lead to it."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.billing import cost as costs
from gateway.billing.hold import Work, worst_case
from gateway.billing.lifecycle import TRANSITIONS, Event, Outcome, State
from gateway.billing.money import parse_usd
from gateway.billing.price_row import Price
from gateway.billing.settlement import (
    FAILURES,
    MAX_USAGE_TOKENS,
    POLICY,
    Charge,
    ExchangeResult,
    Hold,
    Terms,
    attempt_of,
    believable_nano_usd,
    decide,
    input_estimate,
)
from gateway.protocol.quantities import Usage
from tests.support.prices import price_row

PRICE = price_row(1_000_000, 100_000, 10_000_000)


def worst_case_nano_usd(price: Price, input_tokens: int, output_tokens: int) -> int:
    return worst_case(price, Work(input_tokens, output_tokens), 0, 0).amount_nano_usd


def cost_of_usage_nano_usd(price: Price, usage: Usage) -> int:
    return costs.cost_of_usage_nano_usd(price, usage, 0)


HOLD = Hold("req_1", "team", "key", worst_case_nano_usd(PRICE, 100, 50), 100, 50, 1)
USAGE = Usage(90, 10, 40, 5, 130, "0.5")
COST = cost_of_usage_nano_usd(PRICE, USAGE)
ESTIMATED = [outcome for outcome, charge in POLICY.items() if charge is Charge.USAGE_OR_ESTIMATE]
FREE = [outcome for outcome, charge in POLICY.items() if charge is Charge.NOTHING]


def settle(ending: ExchangeResult, *, trust: bool = False) -> tuple[str, str, int]:
    found = decide(ending, HOLD, Terms(PRICE, "m", "u", 0, trust_upstream_cost=trust))
    assert (found.hold, found.outcome, found.model, found.upstream) == (HOLD, ending.outcome, "m", "u")
    return found.kind, found.settled_by, found.cost_nano_usd


def test_every_outcome_has_its_row() -> None:
    assert set(POLICY) == set(Outcome)


@pytest.mark.parametrize("outcome", Outcome)
def test_nothing_is_charged_before_an_upstream_answered(outcome: Outcome) -> None:
    assert settle(ExchangeResult(outcome, answered=False, usage=USAGE, output_tokens_estimate=9)) == ("void", "-", 0)


@pytest.mark.parametrize("outcome", FREE)
def test_nothing_is_charged_for_a_refusal(outcome: Outcome) -> None:
    assert settle(ExchangeResult(outcome, answered=True, usage=USAGE)) == ("void", "-", 0)


@pytest.mark.parametrize("outcome", [*ESTIMATED, Outcome.INVALID_ANSWER])
def test_usage_is_charged_wherever_it_was_learnt(outcome: Outcome) -> None:
    assert settle(ExchangeResult(outcome, answered=True, usage=USAGE)) == ("settle", "usage", COST)


def test_an_answer_that_is_no_response_and_shows_no_usage_is_free() -> None:
    assert settle(ExchangeResult(Outcome.INVALID_ANSWER, answered=True)) == ("void", "-", 0)


@pytest.mark.parametrize("outcome", ESTIMATED)
def test_what_was_answered_without_usage_is_estimated_and_never_free(outcome: Outcome) -> None:
    expected = worst_case_nano_usd(PRICE, 100, 7)
    assert settle(ExchangeResult(outcome, answered=True, output_tokens_estimate=7)) == ("settle", "estimate", expected)
    assert settle(ExchangeResult(outcome, answered=True))[2] == worst_case_nano_usd(PRICE, 100, 0) > 0


@given(st.integers(0, 10**9), st.sampled_from(ESTIMATED))
def test_an_estimate_never_exceeds_its_hold(tokens: int, outcome: Outcome) -> None:
    ending = ExchangeResult(outcome, answered=True, output_tokens_estimate=tokens)
    assert settle(ending)[2] <= HOLD.amount_nano_usd


@given(st.integers(0, 1000), st.integers(0, HOLD.amount_nano_usd), st.integers(1, 1000))
def test_an_estimate_never_exceeds_its_hold_at_a_dearer_price_either(tokens: int, held: int, times: int) -> None:
    """The candidate that answered may be dearer than the one that the hold was made for."""
    dearer = price_row(*(times * rate for rate in (1_000_000, 100_000, 10_000_000)))
    ending = ExchangeResult(Outcome.UPSTREAM_CUT, answered=True, output_tokens_estimate=tokens)
    found = decide(ending, HOLD._replace(amount_nano_usd=held), Terms(dearer, "m", "u", 0))
    assert 0 <= found.cost_nano_usd <= held


def test_a_real_usage_is_charged_whole_even_over_its_hold() -> None:
    usage = Usage(1_000, 0, 1_000, 0, 2_000, None)
    cost = settle(ExchangeResult(Outcome.COMPLETED, answered=True, usage=usage))[2]
    assert cost == cost_of_usage_nano_usd(PRICE, usage) > HOLD.amount_nano_usd


def test_an_upstreams_own_cost_counts_where_the_route_says_so() -> None:
    ending = ExchangeResult(Outcome.COMPLETED, answered=True, usage=USAGE)
    assert settle(ending, trust=True) == ("settle", "upstream_cost", 500_000_000)
    assert settle(ending) == ("settle", "usage", COST)


def test_an_upstreams_cost_that_the_ledger_cannot_hold_gives_way_to_the_price() -> None:
    usage = Usage(90, 10, 40, 5, 130, "99999999999")
    assert settle(ExchangeResult(Outcome.COMPLETED, answered=True, usage=usage), trust=True) == (
        "settle",
        "usage",
        COST,
    )


UNANSWERED = ExchangeResult(Outcome.CLIENT_LEFT, begun=True)
TERMS = Terms(PRICE, "m", "u", 0)


@pytest.mark.parametrize("outcome", Outcome)
def test_what_was_sent_and_not_answered_is_charged_its_input(outcome: Outcome) -> None:
    found = decide(UNANSWERED._replace(outcome=outcome), HOLD, TERMS)
    assert (found.kind, found.settled_by) == ("settle", "estimate")
    assert found.cost_nano_usd == cost_of_usage_nano_usd(PRICE, Usage(100, 0, 0, 0, 100, None))
    assert decide(UNANSWERED, HOLD, TERMS._replace(charge_unanswered=False)).kind == "void"


@given(st.integers(0, 10**9), st.integers(0, 10**12), st.integers(1, 1000))
def test_neither_an_unanswered_request_nor_an_attempt_exceeds_the_hold(tokens: int, held: int, times: int) -> None:
    """However the price has changed, and whatever the request says of its own size."""
    hold = HOLD._replace(amount_nano_usd=held, input_tokens=tokens)
    terms = TERMS._replace(price=price_row(*(times * rate for rate in (1_000_000, 100_000, 10_000_000))))
    assert 0 <= decide(UNANSWERED, hold, terms).cost_nano_usd <= held
    attempt = orjson.loads(attempt_of("u", "reset", input_estimate(hold), hold, terms))
    assert 0 <= parse_usd(attempt["estimate_usd"]) <= held


@pytest.mark.parametrize("outcome", sorted(FAILURES))
def test_a_failure_before_any_output_is_charged_its_input_unless_the_operator_says_no(outcome: Outcome) -> None:
    before, after = (ExchangeResult(outcome, answered=True, output_tokens_estimate=tokens) for tokens in (0, 3))
    free = TERMS._replace(charge_failed_input=False)
    assert decide(before, HOLD, TERMS).kind == "settle"
    assert decide(before, HOLD, free).kind == "void"
    assert decide(after, HOLD, free) == decide(after, HOLD, TERMS)
    assert decide(before._replace(usage=USAGE), HOLD, free).cost_nano_usd == COST


@pytest.mark.parametrize("outcome", sorted(set(ESTIMATED) - FAILURES))
def test_nobody_else_gets_the_input_for_nothing(outcome: Outcome) -> None:
    ending = ExchangeResult(outcome, answered=True)
    assert decide(ending, HOLD, TERMS._replace(charge_failed_input=False)) == decide(ending, HOLD, TERMS)


def test_every_state_is_reached_and_every_hold_has_an_end() -> None:
    reached = {State.RECEIVED} | set(TRANSITIONS.values())
    assert reached == set(State)
    final = {State.REFUSED, State.SETTLED, State.VOIDED}
    assert not {state for state, _ in TRANSITIONS} & final
    for state in (State.ADMITTED, State.OPENED, State.RELAYING):
        assert TRANSITIONS[state, Event.VOID] is State.VOIDED


@given(st.integers(0, 2**53), st.integers(0, 2**53), st.sampled_from([None, "0.5", "9000000", "1"]))
def test_no_usage_whatever_charges_more_than_a_bound_far_beyond_the_hold(
    input_tokens: int, output_tokens: int, cost_usd: str | None
) -> None:
    usage = Usage(input_tokens, 0, output_tokens, 0, input_tokens + output_tokens, cost_usd)
    most_nano_usd = believable_nano_usd(HOLD)
    for trust in (False, True):
        result = ExchangeResult(Outcome.COMPLETED, answered=True, usage=usage)
        found = decide(result, HOLD, Terms(PRICE, "m", "u", 0, trust_upstream_cost=trust))
        assert found.cost_nano_usd <= most_nano_usd
        if found.settled_by == "suspicious":
            assert found.cost_nano_usd == most_nano_usd
            assert found.usage.input_tokens + found.usage.output_tokens <= 2 * MAX_USAGE_TOKENS


def test_an_absurd_usage_is_settled_as_suspicious_and_one_of_twenty_times_the_hold_is_not() -> None:
    absurd = Usage(2**53, 0, 2**53, 0, 2**54, None)
    found = decide(ExchangeResult(Outcome.COMPLETED, answered=True, usage=absurd), HOLD, Terms(PRICE, "m", "u", 0))
    assert (found.settled_by, found.cost_nano_usd) == ("suspicious", believable_nano_usd(HOLD))
    large = Usage(100, 0, 50 * 24, 0, 1300, None)
    told = decide(ExchangeResult(Outcome.COMPLETED, answered=True, usage=large), HOLD, Terms(PRICE, "m", "u", 0))
    assert (told.settled_by, told.cost_nano_usd) == ("usage", cost_of_usage_nano_usd(PRICE, large))
