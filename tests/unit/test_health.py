"""Breakers per upstream and model, and resting keys, without a clock or a socket."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.health import Condition, Health, UpstreamKey

OPEN_S = 10.0
_EVENTS = st.lists(st.tuples(st.sampled_from(["sick", "well", "other"]), st.booleans()), max_size=60)


@given(_EVENTS, st.integers(1, 8))
def test_one_models_failures_alone_never_close_the_way_for_another(
    events: list[tuple[str, bool]], failures: int
) -> None:
    health = Health(failures, OPEN_S, 100)
    for at, (model, _) in enumerate(events):
        if model == "sick":
            health.failed("sick", float(at), answered=True)
        else:
            assert health.allows(model, float(at))
            health.answered(model, float(at))


@given(_EVENTS)
def test_what_has_answered_last_is_closed(events: list[tuple[str, bool]]) -> None:
    health, now_s = Health(2, OPEN_S, 100), 0.0
    for model, good in events:
        now_s += 1
        if good:
            health.answered(model, now_s)
            assert health.allows(model, now_s)
        else:
            health.failed(model, now_s, answered=True)


@given(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=200), st.integers(1, 5))
def test_no_more_models_are_kept_than_the_bound(models: list[str], most: int) -> None:
    health, key = Health(1000, OPEN_S, most), UpstreamKey(0, "secret", max_models=most)
    for model in models:
        health.failed(model, 0.0, answered=True)
        key.rest_model(model, 100.0)
        assert len(list(health.models(0.0))) <= most
        assert len(key.resting_models(0.0)) <= most
        assert not key.usable(model, 0.0)


def test_a_probe_that_tells_nothing_is_waited_for_no_longer_than_the_breaker_stays_open() -> None:
    health = Health(1, OPEN_S, 10)
    health.unreachable(0.0)
    assert not health.allows("a", OPEN_S - 1)
    assert health.allows("a", OPEN_S)
    assert not health.allows("b", OPEN_S + 1), "one probe at a time"
    assert health.allows("b", 2 * OPEN_S)


def test_a_probe_of_a_model_that_failed_alone_leaves_the_place_of_the_wholes() -> None:
    health = Health(2, OPEN_S, 10)
    for model in ("a", "a", "b", "b"):
        health.failed(model, 0.0, answered=True)
    assert health.whole.condition(0.0) is Condition.OPEN
    assert health.allows("a", OPEN_S)
    assert health.allows("c", OPEN_S)
    health.failed("a", OPEN_S, answered=True)
    assert health.whole.condition(OPEN_S) is not Condition.OPEN
    health.answered("c", OPEN_S)
    assert health.allows("d", OPEN_S)
    assert not health.allows("a", OPEN_S)


def test_a_request_that_tells_nothing_gives_the_place_of_its_probe_back() -> None:
    health = Health(1, OPEN_S, 10)
    health.failed("a", 0.0, answered=True)
    assert health.allows("a", OPEN_S)
    assert not health.allows("a", OPEN_S)
    health.released("a")
    assert health.allows("a", OPEN_S)


def test_a_key_with_a_new_secret_rests_for_nothing() -> None:
    secret = "old"
    key = UpstreamKey(0, secret, lambda: secret)
    key.rest(1000.0)
    key.rest_model("a", 1000.0)
    assert not key.usable("b", 0.0)
    secret = "new"
    assert key.usable("a", 2.0)
    assert key.resting_until_s("a") == 0.0
