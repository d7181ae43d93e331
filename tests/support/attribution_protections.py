"""Protections of tags and end users: what switches each off, and the test that must fail then."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_SCRIPT: Final = "gateway/store/scripts/attribution.lua"
_LEDGER: Final = "tests/ledger/test_attribution.py"
_USERS: Final = "tests/ledger/test_end_users.py"
_BOUNDED: Final = f"{_LEDGER}::test_too_many_values_and_too_many_names_are_counted_together"

ATTRIBUTION_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "the values of a tag are bounded",
        _SCRIPT,
        "elseif values >= most_values + 0 then line = name .. '='",
        "elseif false then line = ''",
        _BOUNDED,
    ),
    Protection(
        "the names of tags are bounded",
        _SCRIPT,
        "if is_new and names >= most_names + 0 then line = '='",
        "if false then line = ''",
        _BOUNDED,
    ),
    Protection(
        "what is counted by tag has an end",
        "gateway/store/scripts/settle_v8.lua",
        "if tags.life_ms then redis.call('PEXPIRE', KEYS[12], tags.life_ms) end",
        "",
        f"{_LEDGER}::test_a_day_is_kept_as_long_as_the_policy_says",
    ),
    Protection(
        "tags of a header never go to a provider",
        "gateway/config/types.py",
        '    | {"x-gateway-tags", "x-gateway-end-user"}\n',
        "",
        "tests/unit/test_attribution_settings.py::test_the_gateway_s_own_headers_are_not_forwarded",
    ),
    Protection(
        "an end user is hashed where the configuration says so",
        "gateway/protocol/attribution.py",
        '    if policy.end_users != "hashed":\n',
        "    if True:\n",
        "tests/unit/test_attribution.py::test_an_end_user_can_be_hashed_or_left_out",
    ),
    Protection(
        "end users that are done do not take the time to live of the others with them",
        "gateway/store/scripts/end_users_admission.lua",
        "function save_end_users()\n",
        "function save_end_users()\n"
        "  if #lapsed_entries > 0 then redis.call('HDEL', end_users, unpack(lapsed_entries)) end\n",
        f"{_USERS}::test_the_counters_of_end_users_who_come_one_after_another_expire",
    ),
    Protection(
        "a counter of what was charged never falls",
        "gateway/observability/metrics/counters.py",
        "                if amount < 0:  # a correction; a counter must not fall",
        "                if False:",
        "tests/observability/test_metrics.py::test_what_is_taken_back_has_a_counter_of_its_own_so_that_none_falls",
    ),
    Protection(
        "a correction counts under the tags of the request that it corrects",
        "gateway/store/scripts/settle_v8.lua",
        "is_open and is_tagged and ARGV[28], is_open",
        "false, is_open",
        "tests/operators/test_attribution.py::test_what_corrects_an_estimate_counts_where_that_was_counted",
    ),
    Protection(
        "a correction is no usage below zero",
        "gateway/observability/otel_metrics.py",
        "        if usage.input_tokens < 0 or usage.output_tokens < 0:\n            return",
        "        if False:\n            return",
        "tests/observability/test_otel_metrics.py::test_what_corrects_an_estimate_is_no_usage_below_zero",
    ),
    Protection(
        "an end user takes no tag's place",
        _SCRIPT,
        "local is_new = values == 0 and name ~= 'u'",
        "local is_new = values == 0",
        _BOUNDED,
    ),
    Protection(
        "the end users that are counted are bounded",
        "gateway/store/scripts/end_users_admission.lua",
        "if counted + new - #lapsed_entries > max_end_users + 0 then counted_end_users = counted end",
        "",
        f"{_USERS}::test_so_many_end_users_are_counted_at_a_time_and_those_who_are_done_make_room",
    ),
    Protection(
        "an end user of whom something runs is counted on",
        "gateway/store/scripts/end_users.lua",
        "(running > 0 and WEEK_MS or 0)",
        "0",
        f"{_USERS}::test_so_many_end_users_are_counted_at_a_time_and_those_who_are_done_make_room",
    ),
    Protection(
        "what is counted for end users has an end",
        "gateway/store/scripts/end_users.lua",
        "if kept_ms < wanted_ms - DAY_MS then redis.call('PEXPIRE', end_users, wanted_ms) end",
        "",
        f"{_USERS}::test_what_is_counted_is_kept_until_no_period_counts_it",
    ),
    Protection(
        "a dead worker's holds give end users their slots back",
        "gateway/store/scripts/void.lua",
        "  if hold then hold.end_users = end_users end\n",
        "  if hold then hold.end_user = nil end\n",
        f"{_USERS}::test_a_dead_worker_s_end_users_get_their_slots_back",
    ),
    Protection(
        "an admission whose reply was lost gives its end user's slot back",
        "gateway/ledger/admissions.py",
        "end_user if counted is None or ",
        "end_user if counted is not None and ",
        f"{_USERS}::test_an_admission_whose_reply_was_lost_is_given_back_to_its_end_user",
    ),
    Protection(
        "one end user waits in the queue behind nobody else",
        "gateway/store/scripts/admit_v8.lua",
        " .. (entry[END_USER_SCOPE] and '.' .. end_user or '')",
        "",
        f"{_USERS}::test_one_end_user_waits_in_the_queue_behind_nobody_else",
    ),
    Protection(
        "who names no end user does not pass where one is to be named",
        "gateway/store/scripts/end_users_admission.lua",
        "if end_user == '' and next(entries) then return",
        "if false then return",
        f"{_USERS}::test_requests_that_name_nobody_are_one_end_user_or_refused",
    ),
    Protection(
        "end users whose long names begin alike are two",
        "gateway/protocol/attribution.py",
        '    return f"{text[: MAX_VALUE - _MARK_CHARACTERS - 1]}~{mark}"',
        "    return text[:MAX_VALUE]",
        "tests/unit/test_attribution.py::test_end_users_whose_names_begin_alike_stay_two",
    ),
    Protection(
        "what corrects an estimate corrects the end user's budget",
        "gateway/store/scripts/settle_v8.lua",
        "is_open and end_users and ARGV[29]",
        "false",
        "tests/operators/test_end_user_limits.py::test_what_corrects_an_estimate_corrects_the_end_user_s_budget",
    ),
    Protection(
        "the header names the end user whose limits count",
        "gateway/proxy/admission.py",
        "labels = named_by(client.fields.get(END_USER_HEADER), request.labels)",
        "labels = request.labels",
        "tests/operators/test_end_user_limits.py::test_operations_without_a_field_name_the_end_user_in_the_header",
    ),
    Protection(
        "verification compares what runs for each end user",
        "gateway/ledger/verification.py",
        'differences += [Difference(f"end_user:{name}", holds, counted) for name, holds, counted in miscounted]',
        "pass",
        "tests/ledger/test_end_users.py::test_verification_compares_what_runs_for_each_end_user_with_the_holds",
    ),
)
