"""A name that no limit has is refused with the name that was meant, or with the bound that it exceeds."""

import pytest

from gateway.accounts.limit_hints import why_no_limit
from gateway.accounts.limit_names import LIMITS, is_limit


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("rmp", "rpm"),
        ("RPM", "rpm"),
        ("end_user.rmp", "end_user.rpm"),
        ("rmp@openai/*", "rpm@openai/*"),
        ("max_tokens", "max_output_tokens"),
        ("budget_usd_weekly", "budget_usd_week"),
        ("budget_usd_7days", "budget_usd_7d"),
        ("budget_usd_07d", "budget_usd_7d"),
        ("budget_usd_24hours@a/b", "budget_usd_24h@a/b"),
        ("budget_token_2w", "budget_tokens_14d"),
        ("end_user.budget_usd_yearly", "end_user.budget_usd_365d"),
    ],
)
def test_the_limit_that_was_meant_is_named(name: str, meant: str) -> None:
    assert is_limit(meant)
    assert why_no_limit(name) == f"; is it {meant}?"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("budget_usd_500d", "reach back 366d at most"),
        ("budget_usd_10000h", "reach back 366d at most"),
        ("end_user.budget_tokens_999999999d@a/*", "reach back 366d at most"),
        ("budget_usd_0d", "such as budget_usd_24h"),
        ("budget_usd_30m", "such as budget_usd_24h"),
        ("end_user.budget_usd_total", "limits of each end user are"),
        ("end_user.queue_s", "limits of each end user are"),
        ("queue_s@a/*", "queue_s holds for all models"),
        ("rpm@", "'' names no models"),
        ("rpm@a/*/b", "'a/*/b' names no models"),
        ("", LIMITS[0]),
        ("speed", ", ".join(LIMITS)),
    ],
)
def test_the_reason_is_named(name: str, why: str) -> None:
    assert not is_limit(name)
    assert why_no_limit(name).startswith(": ")
    assert why in why_no_limit(name)
