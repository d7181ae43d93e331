"""The protections of what is held and of what follows where a hold was too small, as data: see `protections`."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_TEST_REPLACEMENT: Final = "tests/security/test_rolling_replacement.py"
_TEST_RESERVATION: Final = "tests/unit/test_reservation.py"
_TEST_OVERRUNS: Final = "tests/billing/test_overruns.py"

HOLD_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "a cost above its hold pauses the team where the route says so",
        "gateway/billing/settlement.py",
        "pauses=terms.pause_on_overrun)",
        "pauses=False)",
        f"{_TEST_OVERRUNS}::test_the_route_decides_before_the_default",
    ),
    Protection(
        "a paused team is refused what costs",
        "gateway/store/scripts/admit_v8.lua",
        "local paused = amount > 0 and team_limits[TEAM_PAUSED]",
        "local paused = false",
        f"{_TEST_OVERRUNS}::test_the_refusal_says_why_since_when_and_who_can_help",
    ),
    Protection(
        "a paused team is not refused what is free",
        "gateway/store/scripts/admit_v8.lua",
        "amount > 0 and team_limits[TEAM_PAUSED]",
        "team_limits[TEAM_PAUSED]",
        f"{_TEST_OVERRUNS}::test_what_costs_nothing_passes",
    ),
    Protection(
        "units that only another row prices are held",
        "gateway/billing/hold.py",
        "prompt = max(prompt, sum(",
        "prompt = max(prompt, 0 * sum(",
        "tests/unit/test_hold.py::test_units_are_held_in_place_of_tokens_where_only_another_row_states_their_price",
    ),
    Protection(
        "a wrong prediction is held as output",
        "gateway/protocol/dialects/chat.py",
        "more_output_tokens=n * _tokens_beyond_bound(fields)",
        "more_output_tokens=0",
        f"{_TEST_RESERVATION}::test_a_wrong_prediction_is_held_as_output",
    ),
    Protection(
        "sound of unknown length is held by the second",
        "gateway/proxy/reservation.py",
        "(body_work.media or is_duration_unknown) and _SECOND in inputs.router.prices.units",
        "False",
        f"{_TEST_RESERVATION}::test_sound_of_unknown_length_is_held_by_the_second",
    ),
    Protection(
        "sources of a search are held as calls",
        "gateway/proxy/reservation.py",
        "work.sources + (",
        "(",
        f"{_TEST_RESERVATION}::test_searches_that_a_field_switches_on_are_held",
    ),
    Protection(
        "a rerank reads its query with each document",
        "gateway/protocol/dialects/rerank.py",
        "repeated_bytes=repeated_bytes",
        "repeated_bytes=0",
        f"{_TEST_RESERVATION}::test_a_rerank_reads_its_query_with_each_piece",
    ),
    Protection(
        "a gateway that is told to stop serves while requests come",
        "gateway/worker/signals.py",
        "if self._services.handler.request_count != request_count:",
        "if False:",
        "tests/security/test_rolling_replacement.py",
    ),
    Protection(
        "what waits to be accepted is served when listening ends",
        "gateway/server.py",
        "            for accepted in _accepted(listening):",
        "            for accepted in ():",
        f"{_TEST_REPLACEMENT}::test_what_waits_to_be_accepted_when_listening_ends_is_served",
    ),
    Protection(
        "a gateway that leaves ends its connections with their answers",
        "gateway/http/connection.py",
        "head.keep_alive and not self._context.application.leaving",
        "head.keep_alive",
        f"{_TEST_REPLACEMENT}::test_a_kept_connection_ends_with_its_next_answer_once_the_gateway_leaves",
    ),
    Protection(
        "a script that may not run all of its commands writes nothing",
        "gateway/store/script.py",
        "source = _permission_check(commands, commands) + source",
        "pass",
        "tests/store/test_forbidden_commands.py::"
        "test_each_script_that_writes_asks_first_and_those_that_read_have_no_write_of_their_own",
    ),
    Protection(
        "a script of a request that may not run what follows its first write writes nothing",
        "gateway/store/script.py",
        "_PERMITS.sub(lambda line: _permission_check(line[1].split(), commands), source)",
        '_PERMITS.sub("", source)',
        "tests/store/test_forbidden_midway.py::test_a_call_that_lacks_a_command_changes_nothing",
    ),
)
