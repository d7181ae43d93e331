"""Protections of limits beyond the plain ones: what switches each off, and the test that must fail then."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_COUNTING: Final = "gateway/store/scripts/meter_counting.lua"
_METERS: Final = "gateway/store/scripts/meters.lua"
_TEST: Final = "tests/ledger/test_periods.py"
_TEST_MODELS: Final = "tests/ledger/test_model_limits.py"
_OVERRIDES: Final = "gateway/store/scripts/overrides.lua"
_OVERRIDES_PY: Final = "gateway/accounts/overrides.py"
_TEST_OVERRIDES: Final = "tests/ledger/test_overrides.py"
_RULES: Final = "gateway/accounts/rules.py"
_TEST_LOWERED: Final = "tests/ledger/test_lowered_rates.py"
_TEST_BY_MODEL: Final = "tests/ledger/test_overrides_by_model.py"

LIMIT_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "the oldest part of the last days counts whole",
        _METERS,
        "wait = (meter[SLOT_NUMBER] - at + NEWEST + SLOTS) * meter[SLOT_MS] - now",
        "wait = (meter[SLOT_NUMBER] - at + NEWEST + SLOTS - 1) * meter[SLOT_MS] - now",
        f"{_TEST}::test_what_was_spent_in_the_last_days_leaves_a_rolling_budget",
    ),
    Protection(
        "what was admitted in another period gives nothing back in this one",
        _COUNTING,
        "if at_ms >= meter[PERIOD_BEGIN] then meter[METER_USED] =",
        "if true then meter[METER_USED] =",
        f"{_TEST}::test_a_settlement_counts_in_the_period_of_its_admission",
    ),
    Protection(
        "another time zone forgives nothing",
        _METERS,
        "if from and now >= meter[PERIOD_END] and meter[PERIOD_BEGIN] < from then",
        "if from then",
        f"{_TEST}::test_a_limit_counts_from_when_it_is_set_and_keeps_its_count_while_it_changes",
    ),
    Protection(
        "what was admitted without the store counts in every period",
        "gateway/store/scripts/settle_v8.lua",
        "hold.counted = meters_of_model(",
        "local _ = meters_of_model(",
        f"{_TEST}::test_what_was_admitted_without_the_store_counts_in_every_period",
    ),
    Protection(
        "changes at once lose no limit",
        "gateway/accounts/accounts.py",
        "based_on=team.version if derived.fields else None",
        "based_on=None",
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
        "if not models or permitted(rule[RULE_PATTERN], models) then",
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
        "if sum(name not in PLAIN for name in kept) > MAX_RULES:",
        "if False:",
        "tests/operators/test_time_zones.py::test_what_is_no_zone_anchor_or_limit_is_refused",
    ),
    Protection(
        "a queue in which nobody could wait is refused",
        "gateway/api/admin/feasibility.py",
        '        _refuse_idle(own, team.limits if team is not None else {}, "limits")',
        "        pass",
        "tests/operators/test_feasibility.py::test_a_queue_in_which_nobody_could_wait_is_refused",
    ),
    Protection(
        "a limit for a while ends",
        _OVERRIDES,
        "if now < until_ms then",
        "if true then",
        f"{_TEST_OVERRIDES}::test_a_higher_limit_ends_to_the_millisecond_on_every_worker",
    ),
    Protection(
        "a limit of some models for a while ends",
        _METERS,
        "if until_ms and now < until_ms then",
        "if until_ms and now <= until_ms then",
        f"{_TEST_OVERRIDES}::test_a_higher_limit_ends_to_the_millisecond_on_every_worker",
    ),
    Protection(
        "who used a higher rate in time is not refused for long",
        _OVERRIDES,
        "limit and min(bucket[level], limit * MINUTE_MS) or 0",
        "bucket[level]",
        f"{_TEST_BY_MODEL}::test_rates_and_what_holds_instead_let_through_what_a_plain_model_does"
        "_and_who_waits_as_told_is_served",
    ),
    Protection(
        "refusals know of the end of a limit",
        "gateway/store/scripts/override_ends.lua",
        "if not override_end or wait >= 0 and now + wait < override_end[OVERRIDDEN_UNTIL] then return wait end",
        "if true then return wait end",
        f"{_TEST_OVERRIDES}::test_who_waits_for_the_end_of_a_lower_limit_is_served",
    ),
    Protection(
        "what was cut off at the end is not given back",
        "gateway/store/scripts/resolving.lua",
        "and later_tpm < tpm then tokens = max(tokens, hold.tokens) end",
        "and later_tpm < tpm then tokens = tokens end",
        f"{_TEST_OVERRIDES}::test_settling_behind_the_end_gives_back_nothing_that_others_have_used",
    ),
    Protection(
        "settlement knows of a rate's override",
        "gateway/store/scripts/settle_v8.lua",
        "tpm_overrides[scope] = item",
        "tpm_overrides = nil",
        f"{_TEST_OVERRIDES}::test_settling_in_time_gives_back_what_has_not_drained_at_the_rate_that_holds",
    ),
    Protection(
        "no limit for a while goes on counting",
        _METERS,
        "if (limit or override_end and override_end[LIMIT_AFTER]) and PERIODS",
        "if limit and PERIODS",
        f"{_TEST_OVERRIDES}::test_a_local_budget_without_its_limit_for_a_while_counts_on",
    ),
    Protection(
        "a limit for a while that returns has another name",
        "gateway/accounts/rules.py",
        "limited = {*before.limits, *(name for name, one in before.overrides.items() if one.is_in_force(now_ms))}",
        "limited = {*before.limits, *before.overrides}",
        f"{_TEST_OVERRIDES}"
        "::test_a_limit_for_a_while_alone_that_returns_counts_anew_and_is_not_counted_down_by_those_of_before",
    ),
    Protection(
        "an end that has passed is refused",
        _OVERRIDES_PY,
        "if change is not None and not change.is_in_force(now_ms):",
        "if False:",
        f"{_TEST_OVERRIDES}::test_one_that_has_passed_is_refused_with_the_reason_by_the_stores_clock",
    ),
    Protection(
        "a rate's override is known for a while behind its end",
        _OVERRIDES_PY,
        "        if one.is_in_force(now_ms) or _is_still_needed(name, one, limits, now_ms)\n",
        "        if one.is_in_force(now_ms)\n",
        f"{_TEST_OVERRIDES}::test_an_override_that_is_ended_early_forgives_what_the_limit_does_not_permit",
    ),
    Protection(
        "a lead changes no override of an operator",
        "gateway/accounts/accounts.py",
        "refuse_lifting_overrides(key, changes, now_ms)",
        "pass",
        "tests/operators/test_overrides.py"
        "::test_a_lead_changes_no_override_of_an_operator_and_sets_none_above_what_is_held",
    ),
    Protection(
        "a lowered rate is used up by a minute's worth at most",
        "gateway/store/scripts/config_v4.lua",
        "scope[level] > new * MINUTE_MS then",
        "false then",
        f"{_TEST_LOWERED}::test_who_was_busy_at_the_old_rate_goes_on_at_the_new_one",
    ),
    Protection(
        "so is one for some models or of each end user",
        _RULES,
        "if name in fixed or name not in lowered",
        "if True",
        f"{_TEST_LOWERED}::test_who_was_busy_at_the_old_rate_goes_on_at_the_new_one",
    ),
    Protection(
        "a lead who lowers and raises an operator's rate gets no fresh minute",
        _RULES,
        "if name in changed and name not in fixed",
        "if name in changed",
        f"{_TEST_LOWERED}::test_a_lead_gets_no_fresh_minute_of_an_operators_rate_by_lowering_and_raising_it",
    ),
)
