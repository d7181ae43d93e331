"""Protections of tags and end users: what switches each off, and the test that must fail then."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_SCRIPT: Final = "gateway/store/scripts/attribution.lua"
_LEDGER: Final = "tests/ledger/test_attribution.py"
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
        "gateway/store/scripts/settle_v7.lua",
        "if tags.life then redis.call('PEXPIRE', KEYS[12], tags.life) end",
        "",
        f"{_LEDGER}::test_a_day_is_kept_as_long_as_the_policy_says",
    ),
    Protection(
        "tags of a header never go to a provider",
        "gateway/config/types.py",
        '    | {"x-gateway-tags"}\n',
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
        "a counter of what was charged never falls",
        "gateway/observability/metrics/counters.py",
        "                if amount < 0:  # a correction; a counter must not fall",
        "                if False:",
        "tests/observability/test_metrics.py::test_what_is_taken_back_has_a_counter_of_its_own_so_that_none_falls",
    ),
    Protection(
        "a correction counts under the tags of the request that it corrects",
        "gateway/store/scripts/settle_v7.lua",
        "local kept_tags = remembered and is_tagged",
        "local kept_tags = false and is_tagged",
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
)
