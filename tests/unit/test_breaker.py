"""One circuit breaker: what opens it, what closes it, and whose turn the probe is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.health import Breaker, Condition

OPEN_S = 10.0


@given(st.integers(1, 8), st.integers(0, 8))
def test_an_answer_closes_it_for_good(failures: int, more: int) -> None:
    breaker = Breaker(failures, OPEN_S)
    for _ in range(failures + more):
        breaker.failed(0.0)
    assert breaker.condition(0.0) is Condition.OPEN
    assert breaker.allows(OPEN_S)
    assert breaker.succeeded()
    assert breaker.condition(OPEN_S) is Condition.CLOSED
    assert all(breaker.allows(OPEN_S) for _ in range(3))
    assert breaker.wait_s(OPEN_S) == 0
    for _ in range(failures - 1):
        assert not breaker.failed(OPEN_S)
    assert breaker.condition(OPEN_S) is Condition.CLOSED, "failures before an answer count no more"


def test_a_probe_whose_client_left_gives_its_place_back() -> None:
    breaker = Breaker(1, OPEN_S)
    breaker.failed(0.0)
    assert breaker.allows(OPEN_S)
    assert not breaker.allows(OPEN_S), "one at a time"
    breaker.released()
    assert breaker.allows(OPEN_S)


def test_a_probe_that_fails_opens_it_again() -> None:
    breaker = Breaker(2, OPEN_S)
    breaker.failed(0.0)
    breaker.failed(0.0)
    assert breaker.allows(OPEN_S)
    breaker.failed(OPEN_S)
    assert not breaker.allows(2 * OPEN_S - 0.1)
    assert breaker.allows(2 * OPEN_S)
