"""Protections of limits beyond the plain ones: what switches each off, and the test that must fail then."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_COUNTING: Final = "gateway/store/scripts/meter_counting.lua"
_METERS: Final = "gateway/store/scripts/meters.lua"
_TEST: Final = "tests/ledger/test_periods.py"
_TEST_MODELS: Final = "tests/ledger/test_model_limits.py"

LIMIT_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "the oldest part of the last days counts whole",
        _METERS,
        "wait = (meter[3] - at + NEWEST + SLOTS) * meter[2] - now",
        "wait = (meter[3] - at + NEWEST + SLOTS - 1) * meter[2] - now",
        f"{_TEST}::test_what_was_spent_in_the_last_days_leaves_a_rolling_budget",
    ),
    Protection(
        "what was admitted in another period gives nothing back in this one",
        _COUNTING,
        "if at_ms >= meter[3] then meter[2] =",
        "if true then meter[2] =",
        f"{_TEST}::test_a_settlement_counts_in_the_period_of_its_admission",
    ),
    Protection(
        "another time zone forgives nothing",
        _METERS,
        "if from and now >= meter[4] and meter[3] < from then",
        "if from then",
        f"{_TEST}::test_a_limit_counts_from_when_it_is_set_and_keeps_its_count_while_it_changes",
    ),
    Protection(
        "what was admitted without the store counts in every period",
        "gateway/store/scripts/settle_v7.lua",
        "hold.counted = meters_of_model(",
        "local _ = meters_of_model(",
        f"{_TEST}::test_what_was_admitted_without_the_store_counts_in_every_period",
    ),
    Protection(
        "changes at once lose no limit",
        "gateway/accounts/accounts.py",
        "decided=team.version if rules else None",
        "decided=None",
        f"{_TEST}::test_changes_at_once_lose_no_limit",
    ),
    Protection(
        "no calendar of another time zone is stored",
        "gateway/store/scripts/calendar_v1.lua",
        "(found[2] or '') ~= ARGV[1] or",
        "false or",
        f"{_TEST}::test_a_calendar_that_came_too_late_is_not_stored",
    ),
    Protection(
        "a limit of some models counts no other",
        _METERS,
        "if not models or permitted(rule[5], models) then",
        "if true then",
        f"{_TEST_MODELS}::test_a_limit_of_some_models_counts_these_together_and_no_other",
    ),
    Protection(
        "a limit that is set again has another name",
        "gateway/accounts/rules.py",
        'ids.get(name, f"{version}.{at}")',
        "ids.get(name, name)",
        f"{_TEST_MODELS}::test_a_limit_that_is_set_again_counts_anew_and_is_not_counted_down_by_those_of_before",
    ),
    Protection(
        "models that may answer instead count",
        "gateway/proxy/field_checks.py",
        "if work.instead or work.advisors:",
        "if False:",
        "tests/operators/test_model_limits.py::test_models_that_may_answer_instead_count_at_their_own_limits",
    ),
    Protection(
        "counters of slots are compared with the holds",
        "gateway/ledger/verification.py",
        'checks.append((f"slots:{key_id}:{rule}", counted, found))',
        "pass",
        f"{_TEST_MODELS}::test_a_counter_of_slots_that_differs_from_the_holds_is_found",
    ),
    Protection(
        "a team or a key has a bounded number of limits",
        "gateway/api/admin/feasibility.py",
        "if sum(value is not None for name, value in kept.items() if name not in PLAIN) > MAX_RULES:",
        "if False:",
        "tests/operators/test_time_zones.py::test_what_is_no_zone_anchor_or_limit_is_refused",
    ),
)
