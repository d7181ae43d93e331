"""Buckets of durations, and the quantiles read from them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.reporting.latency_buckets import BOUNDS_MS, bucket_ms, quantile

DURATIONS = st.lists(st.floats(min_value=0, max_value=BOUNDS_MS[-1], allow_nan=False), min_size=1)


def counted(durations: list[float]) -> Counter[int]:
    return Counter(map(bucket_ms, durations))


def test_a_bound_belongs_to_its_bucket_and_the_longest_counts_as_the_last() -> None:
    assert [bucket_ms(ms) for ms in (0, 5, 5.1, 10, 399, 10**9)] == [5, 5, 10, 10, 400, BOUNDS_MS[-1]]


def test_nothing_counted_has_no_quantile() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({5: 0}, 0.5) is None


def test_a_buckets_requests_are_spread_evenly() -> None:
    assert quantile({400: 10}, 0.5) == 325  # halfway from 250
    assert quantile({400: 50, 1000: 50}, 0.95) == 960


@given(DURATIONS, st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(durations: list[float], q: float) -> None:
    ordered = sorted(durations)
    true = ordered[max(0, -(-len(ordered) * round(q * 100) // 100) - 1)]
    found = quantile(counted(durations), q)
    assert found is not None
    assert bucket_ms(found) == bucket_ms(true) or found == pytest.approx(bucket_ms(true), abs=0.1)


@given(st.lists(DURATIONS, min_size=2, max_size=4))
def test_workers_counts_add_up_to_the_counts_of_one_worker(workers: list[list[float]]) -> None:
    added: Counter[int] = Counter()
    for durations in workers:
        added += counted(durations)
    assert added == counted([ms for durations in workers for ms in durations])
