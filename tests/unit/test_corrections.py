"""What a later look at a response posts: the difference to what was charged, and what of it is above its hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.billing.lifecycle import Outcome
from gateway.billing.settlement import NO_USAGE, Hold, Settlement, overrun_nano_usd
from gateway.ledger.known_responses import KnownResponse, Standing, correction

AMOUNTS = st.integers(min_value=0, max_value=1000)


def known(charged: int, held: int) -> KnownResponse:
    """A response as the journal tells it; without a hold, as versions before it kept it."""
    told = ("upstream", "", "p/m", "key", 5, Standing.ESTIMATED, charged, 0, 0, 0, 0)
    return KnownResponse("resp_1", *told, held, "req_1")


def seen(cost: int, held: int) -> Settlement:
    over = overrun_nano_usd(cost, held)
    return Settlement(
        Hold("req_2", "team", "key", 0, 0, 0, 5),
        "settle",
        cost,
        NO_USAGE,
        "usage",
        Outcome.COMPLETED,
        "p/m",
        "upstream",
        over_nano_usd=over,
        pauses=over > 0,
    )


@given(charged=AMOUNTS, held=AMOUNTS, cost=AMOUNTS)
def test_charges_and_what_is_above_the_hold_add_up(charged: int, held: int, cost: int) -> None:
    posted, now = correction(known(charged, held), seen(cost, held))
    assert charged + posted.cost_nano_usd == cost
    assert overrun_nano_usd(charged, held) + posted.over_nano_usd == max(
        overrun_nano_usd(charged, held), overrun_nano_usd(cost, held)
    )
    assert posted.pauses is (posted.over_nano_usd > 0)
    assert (posted.made_by, now.settled) == ("req_1", Standing.SETTLED)


@given(charged=AMOUNTS, cost=AMOUNTS)
def test_where_the_hold_is_not_known_nothing_is_above_it(charged: int, cost: int) -> None:
    posted, _ = correction(known(charged, 0), seen(cost, charged))
    assert (posted.over_nano_usd, posted.pauses) == (0, False)
