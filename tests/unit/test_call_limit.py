"""Calls that cost nothing count against a rate of their own, for each key."""

import pytest

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.proxy.call_limit import MAX_KEYS, CallLimit

KEY, OTHER = ApiKey("t" * 10, "k" * 10, "a"), ApiKey("t" * 10, "k" * 10, "b")


def test_a_key_that_waits_as_long_as_it_is_told_gets_through() -> None:
    now_s = [0.0]
    limit = CallLimit("calls", lambda: now_s[0])
    for _ in range(60):
        limit.take(KEY, 60)
    limit.take(OTHER, 60)
    for _ in range(5):
        with pytest.raises(GatewayError) as refused:
            limit.take(KEY, 60)
        assert (refused.value.code, refused.value.explain["limit"]) == ("rate_limit_exceeded", 60)
        now_s[0] += (refused.value.wait_ms or 0) / 1000
        limit.take(KEY, 60)


def test_an_idle_key_has_its_whole_minute() -> None:
    now_s = [0.0]
    limit = CallLimit("calls", lambda: now_s[0])
    for minute in range(3):
        now_s[0] = minute * 3600.0
        for _ in range(7):
            limit.take(KEY, 7)
        with pytest.raises(GatewayError):
            limit.take(KEY, 7)


def test_the_memory_of_keys_is_bounded() -> None:
    limit = CallLimit("calls")
    for number in range(MAX_KEYS + 10):
        limit.take(ApiKey("t" * 10, "k" * 10, str(number)), 1)
    assert len(limit._empty_s) == MAX_KEYS  # noqa: SLF001 - the bound is on what is kept inside
