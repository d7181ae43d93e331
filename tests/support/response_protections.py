"""The protections of what responses are charged, and of who may name them, as in protections.py."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_TEST_EARLY_IDS: Final = "tests/faults/test_ids_known_early.py"
_TEST_ESTIMATES: Final = "tests/faults/test_estimates.py"
_TEST_LATE: Final = "tests/faults/test_late_overruns.py"
_TEST_CONTINUING: Final = "tests/state/test_continuing.py"
_TEST_ODD: Final = "tests/state/test_odd_requests.py"
_TEST_FREE: Final = "tests/faults/test_what_costs_nothing.py"

RESPONSE_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "a response is remembered before its id is shown",
        "gateway/proxy/stream_relay.py",
        "        responses.remember_running(hold, model, shown_id, opened.upstream.name, opened.key.fingerprint)\n",
        "",
        f"{_TEST_EARLY_IDS}::test_a_response_is_known_when_its_client_has_seen_its_id",
    ),
    Protection(
        "what runs is charged by its own request alone",
        "gateway/proxy/answer_record.py",
        "known_response.settled == Standing.ESTIMATED",
        "known_response.settled != Standing.SETTLED",
        f"{_TEST_EARLY_IDS}::test_a_response_is_known_when_its_client_has_seen_its_id",
    ),
    Protection(
        "a response that nobody followed to its end is asked for later",
        "gateway/proxy/settling.py",
        "                self._report_estimate(exchange, settlement, response_id)\n",
        "",
        "tests/faults/test_late_usage.py::test_a_stream_that_was_left_is_charged_what_it_used",
    ),
    Protection(
        "an overrun that a later request shows is in the journal",
        "gateway/ledger/settlement_call.py",
        "if settlement.made_by and settlement.over_nano_usd:",
        "if False:",
        f"{_TEST_LATE}::test_a_late_overrun_is_journalled_counted_and_pauses_as_any_other",
    ),
    Protection(
        "an overrun that a later request shows pauses the team where the route says so",
        "gateway/ledger/known_responses.py",
        "pauses=settlement.pauses and over > 0,",
        "pauses=False,",
        f"{_TEST_LATE}::test_a_late_overrun_is_journalled_counted_and_pauses_as_any_other",
    ),
    Protection(
        "what a later request shows is held against the hold of the first",
        "gateway/proxy/settling.py",
        "amount, max_tokens = known_response.held_nano_usd, max(charged_tokens, output_tokens)",
        "amount, max_tokens = 0, 0",
        f"{_TEST_LATE}::test_a_usage_that_nobody_believes_is_charged_once_however_often_it_is_told",
    ),
    Protection(
        "a correction counts once, however many requests see the usage at once",
        "gateway/proxy/settling.py",
        "if corrects and posted is not None and posted.resolution is not Resolution.LATE:",
        "if False:",
        f"{_TEST_LATE}::test_requests_that_see_a_usage_at_once_count_once",
    ),
    Protection(
        "nothing is made up of a response that goes on elsewhere",
        "gateway/proxy/exchange.py",
        "        continues_upstream = by_id or request.background or self.answer.continues_upstream\n",
        "        continues_upstream = False\n",
        "tests/faults/test_closing_words.py::test_nothing_is_made_up_of_a_response_by_id",
    ),
    Protection(
        "what costs nothing needs no credits",
        "gateway/store/scripts/admit_v8.lua",
        "metered and amount > 0 and available < amount",
        "metered and available < amount",
        f"{_TEST_FREE}::test_what_costs_nothing_passes_where_nothing_is_left",
    ),
    Protection(
        "a response counts as one request however often it is asked for",
        "gateway/reporting/request_reporter.py",
        'if "{id}" in record.route:',
        "if False:",
        f"{_TEST_FREE}::test_a_response_is_one_request_with_one_outcome_however_often_it_is_asked_for",
    ),
    Protection(
        "a usage of zeros after output is none",
        "gateway/proxy/answer_record.py",
        "if usage is None or may_lack_output(admitted, usage):",
        "if usage is None or lacks_output(usage):",
        f"{_TEST_ESTIMATES}::test_a_usage_of_zeros_after_output_is_none",
    ),
    Protection(
        "base64 that no file begins with is text",
        "gateway/protocol/attachments.py",
        "if name in _IMAGE_MEMBERS and _IMAGES.match(head):",
        "if name in _IMAGE_MEMBERS:",
        "tests/unit/test_input_tokens.py::test_text_dressed_as_a_file_is_text",
    ),
    Protection(
        "what was meant not to be stored is not stored by mistake",
        "gateway/state/turns.py",
        "        _check_switches(fields)\n",
        "",
        f"{_TEST_ODD}::test_a_switch_is_true_or_false",
    ),
    Protection(
        "deleted turns before a compaction are not missed",
        "gateway/state/responses.py",
        "reachable = ids[: ids.index(gone)] if gone in ids else ids",
        "reachable = [] if gone else ids",
        "tests/state/test_stored_responses.py::test_what_precedes_a_compaction_may_be_deleted_and_counts_for_no_bound",
    ),
    Protection(
        "what a deleted turn continued is renewed with the turns after it",
        "gateway/store/scripts/response_entries.lua",
        "if entry.kind == 'd' then gone = gone or id end",
        "if entry.kind == 'd' then return ids, '', gone or id end",
        "tests/state/test_stored_responses.py::test_what_precedes_a_compaction_may_be_deleted_and_counts_for_no_bound",
    ),
    Protection(
        "turns that no chain reaches any more do not keep others from being removed",
        "gateway/store/scripts/response_entries.lua",
        "(entry.children > 0 and not is_first)",
        "entry.children > 0",
        "tests/state/test_stored_responses.py::test_turns_beyond_the_bound_before_a_compaction_go_first",
    ),
    Protection(
        "the demo outlasts a pause of its store",
        "gateway/cli/demo.py",
        'if refused.code != "store_unavailable" or',
        "if True or",
        "tests/cli/test_demo.py::test_a_store_that_pauses_before_the_team_is_there_delays_the_demo_and_does_not_end_it",
    ),
    Protection(
        "an empty id continues nothing",
        "gateway/state/responses.py",
        "if gone or not found:",
        "if gone:",
        f"{_TEST_ODD}::test_an_empty_id_is_one_that_is_not_known",
    ),
    Protection(
        "a warm-up costs nothing although its flag is no boolean",
        "gateway/websocket/messages.py",
        'if not isinstance(message.fields.get("generate"), bool | None):',
        "if False:",
        "tests/websocket/test_turns.py::test_what_http_alone_means_is_dropped_and_a_background_is_refused",
    ),
    Protection(
        "a chain is kept as links",
        "gateway/state/turn.py",
        "own = self._input if past.stored else with_ids(self.window)",
        "own = with_ids(self.window)",
        f"{_TEST_CONTINUING}::test_a_chain_is_kept_as_links_that_are_no_longer_for_being_late",
    ),
    Protection(
        "a request is bounded with all that it continues",
        "gateway/state/turns.py",
        "        if len(body) > max_bytes:\n",
        "        if False:\n",
        f"{_TEST_CONTINUING}::test_a_request_is_bounded_with_all_that_it_continues",
    ),
)
