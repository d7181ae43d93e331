"""The protections, as data: where each stands, what switches it off, and the test that must then fail.

A row's text stands exactly once in its file, and its test exists (tests/house/test_mutants.py): who changes such a line
changes its row. `make mutants` switches the rows off, one at a time.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Protection(NamedTuple):
    """One line of defence. `text` in `file` is replaced by `instead`; `test` is what pytest is told to run."""

    name: str
    file: str
    text: str
    instead: str
    test: str


_CONNECTION: Final = "gateway/http/connection.py"
_TEST_BOUNDS: Final = "tests/security/test_connection_bounds.py"
_CYCLE: Final = "gateway/http/request_cycle.py"
_SPOOL: Final = "gateway/ledger/spool.py"
_SETTLE: Final = "gateway/store/scripts/settle_v8.lua"
_HEALTH: Final = "gateway/upstream/health.py"
_FRAMING: Final = "gateway/protocol/sse_framing.py"
_TEST_SPOOL: Final = "tests/ledger/test_spool_durability.py"
_TEST_UNANSWERED: Final = "tests/faults/test_unanswered.py"
_TEST_SETTLE: Final = "tests/ledger/test_what_settling_keeps.py"
_NAMES: Final = "gateway/store/scripts/names_v1.lua"
_TEST_NAMES: Final = "tests/admin/test_names.py"
_TEST_CYCLE: Final = "tests/unit/test_request_cycle.py"

PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "control characters in an answer's head",
        _CYCLE,
        "if not is_clean(lines, len(headers)):",
        "if False:",
        f"{_TEST_CYCLE}::test_no_header_writes_another",
    ),
    Protection(
        "reading pauses while nobody takes a body",
        _CYCLE,
        "if len(self._body) > HIGH_WATER_BYTES and (",
        "if False and (",
        f"{_TEST_CYCLE}::test_a_body_that_nobody_takes_pauses_reading",
    ),
    Protection(
        "reading pauses behind a request that waits for its turn",
        _CONNECTION,
        "        if len(data) > self._limits.max_head_bytes:\n            self.pause_reading()\n",
        "",
        "tests/faults/test_pipelining.py",
    ),
    Protection(
        "no request begins while answers wait to be read",
        _CONNECTION,
        "(self.write_paused or not cycle.response_complete)",
        "not cycle.response_complete",
        f"{_TEST_BOUNDS}::test_no_request_begins_while_answers_wait_to_be_read",
    ),
    Protection(
        "a client that takes nothing of its answer is disconnected",
        "gateway/http/patience.py",
        "elif before and unsent >= before:",
        "elif False:",
        f"{_TEST_BOUNDS}::test_a_client_that_never_reads_is_disconnected",
    ),
    Protection(
        "a head has a bounded number of fields",
        "gateway/http/parser.py",
        "if self._lines > self._max_head_fields + 2:",
        "if False:",
        f"{_TEST_BOUNDS}::test_a_head_of_many_fields_is_refused",
    ),
    Protection(
        "what is held for nobody in particular is bounded",
        "gateway/http/connection_budget.py",
        "if self.unverified_bytes > self.limits.max_unverified_bytes:",
        "if False:",
        f"{_TEST_BOUNDS}::test_what_is_held_for_nobody_in_particular_is_bounded",
    ),
    Protection(
        "a body is forgotten with its request's answer",
        _CYCLE,
        '        self.response_complete = True\n        self._body, self.body_bytes = b"", 0\n',
        "        self.response_complete = True\n",
        f"{_TEST_BOUNDS}::test_what_is_held_for_nobody_in_particular_is_bounded",
    ),
    Protection(
        "the framing of chunks is bounded",
        "gateway/http/chunked_framing.py",
        "if self._framing_bytes > allowed or ",
        "if ",
        f"{_TEST_BOUNDS}::test_a_body_in_tiny_chunks_is_refused_early",
    ),
    Protection(
        "a path has no control characters",
        "gateway/http/head.py",
        "return _CONTROL.search(path) is not None",
        "return False",
        "tests/faults/test_request_safety.py::test_a_control_character_in_a_path_is_refused",
    ),
    Protection(
        "a request that can be read in two ways is refused",
        "gateway/http/parser.py",
        'if chunked or len(fields) != len(headers) or b"host" not in fields:',
        "if False:",
        "tests/faults/test_request_safety.py::test_what_two_servers_could_read_in_two_ways_is_refused",
    ),
    Protection(
        "large bodies are looked at off the event loop",
        "gateway/proxy/body_reading.py",
        "if len(body) > LONG_BYTES or coding is not None:",
        "if False:",
        "tests/security/test_loop_stays_free.py",
    ),
    Protection(
        "large answers are looked at off the event loop",
        "gateway/proxy/large_answers.py",
        "    return await off_loop.run(partial(read_large, body, policy.max_answer_values))",
        "    return read_large(body, policy.max_answer_values)",
        "tests/security/test_loop_stays_free.py::test_others_are_served_while_a_large_answer_is_looked_at",
    ),
    Protection(
        "long reads of events are passed on in slices",
        "gateway/proxy/stream_relay.py",
        "        if len(data) > LONG_READ_BYTES and not self._is_slicing:",
        "        if False:",
        "tests/security/test_loop_stays_free.py::test_a_burst_of_events_passes_in_slices_of_which_each_turn_of_the_loop_has_one",
    ),
    Protection(
        "long reads of events that are kept are passed on in slices",
        "gateway/proxy/turn_stream.py",
        "(end := slice_end(data, at))",
        "(end := len(data))",
        "tests/security/test_loop_stays_free.py::test_a_burst_of_events_passes_in_slices_of_which_each_turn_of_the_loop_has_one",
    ),
    Protection(
        "values are bounded before a body is parsed",
        "gateway/protocol/decoded_body.py",
        "    check_bounds(text, bounds)\n",
        "",
        "tests/unit/test_body_bounds.py::test_a_body_that_would_take_long_is_refused_before_it_is_parsed",
    ),
    Protection(
        "a known key's wrong secret opens nothing",
        "gateway/store/scripts/key_status.lua",
        "if not secret_until then",
        "if false then",
        "tests/ledger/test_known_keys.py",
    ),
    Protection(
        "a spooled line is on disk before it counts",
        _SPOOL,
        "            os.fsync(self._file.fileno())\n",
        "",
        f"{_TEST_SPOOL}::test_a_line_and_the_name_of_its_file_are_on_disk_when_the_spool_is_closed",
    ),
    Protection(
        "a spool file's name is on disk before it counts",
        _SPOOL,
        "        _sync_directory(self._directory)\n",
        "",
        f"{_TEST_SPOOL}::test_a_line_and_the_name_of_its_file_are_on_disk_when_the_spool_is_closed",
    ),
    Protection(
        "a refused line is kept before its file goes",
        _SPOOL,
        "    if refused:\n        with path",
        "    path.unlink(missing_ok=True)\n    if refused:\n        with path",
        f"{_TEST_SPOOL}::test_a_refused_line_that_cannot_be_put_aside_stays_in_the_spool",
    ),
    Protection(
        "a resolution is remembered as long as it must be",
        _SETTLE,
        "entry_id, now, ARGV[14] + 0,",
        "entry_id, now, ARGV[15] + 0,",
        f"{_TEST_SETTLE}::test_a_resolution_and_the_usage_live_as_long_as_they_are_told",
    ),
    Protection(
        "the journal keeps its entries for their time",
        _SETTLE,
        "'MINID', '~', now - ARGV[16], '*',",
        "'MINID', '~', now, '*',",
        f"{_TEST_SETTLE}::test_the_journal_keeps_what_is_younger_than_its_retention",
    ),
    Protection(
        "an event ends behind its blank line",
        _FRAMING,
        'best = window.rfind(b"\\n\\n") + 2',
        'best = window.rfind(b"\\n\\n") + 1',
        "tests/unit/test_sse_observer.py",
    ),
    Protection(
        "half a line end is no blank line",
        _FRAMING,
        'window.rfind(b"\\n\\r", 0, len(window) - 1) + 2',
        'window.rfind(b"\\n\\r") + 2',
        "tests/unit/test_sse_observer.py",
    ),
    Protection(
        "a name is reserved by one change alone",
        _NAMES,
        "if token ~= ARGV[2] then return",
        "if false then return",
        _TEST_NAMES,
    ),
    Protection(
        "a change that died is repaired before its name is given away",
        "gateway/accounts/team_names.py",
        '            await gather([self._store.run("ZADD", TEAMS, "NX", stored[2].decode(), team_id)])\n',
        "            pass\n",
        "tests/operators/test_whole_changes.py",
    ),
    Protection(
        "a change does not run when its reservation may have lapsed",
        "gateway/store/scripts/fields.lua",
        "return latest ~= '' and now > latest + 0",
        "return false",
        f"{_TEST_NAMES}::test_a_change_that_took_longer_than_its_reservation_changes_nothing",
    ),
    Protection(
        "who reads an index of names asks the team",
        "gateway/accounts/team_names.py",
        'return stored[0] == name.encode() and stored[1] != b"archived"',
        "return stored[0] is not None",
        _TEST_NAMES,
    ),
    Protection(
        "a lead lifts nothing that an operator set",
        "gateway/accounts/authority.py",
        "if operator_value and not _is_as_tight(name, value, operator_value):",
        "if False:",
        "tests/operators/test_who_set_a_limit.py::test_a_lead_cannot_lift_what_an_operator_set",
    ),
    Protection(
        "large answers are rendered in slices",
        "gateway/api/admin/answers.py",
        "        await asyncio.sleep(0)  # an uncontended lock does not yield to other tasks\n",
        "",
        "tests/operators/test_admin_load.py::test_a_large_answer_is_rendered_in_slices_between_which_others_run",
    ),
    Protection(
        "a hold of a damaged team is kept until it can be voided whole",
        "gateway/store/scripts/void.lua",
        "  local text = redis.call('HGET', held, id)\n",
        "  local text = redis.call('HGET', held, id)\n  redis.call('HDEL', held, id)\n",
        "tests/ledger/test_leases.py::test_a_team_whose_data_is_damaged_stops_the_work_for_no_other_team",
    ),
    Protection(
        "an answer closes the breaker",
        _HEALTH,
        "closed, self._failed = self._failed >= self._limit, 0",
        "closed = self._failed >= self._limit",
        "tests/unit/test_breaker.py",
    ),
    Protection(
        "a client that leaves gives the probe's place back",
        _HEALTH,
        '(its client left)."""\n        self._probing_until_s = 0.0',
        '(its client left)."""',
        "tests/unit/test_breaker.py",
    ),
    Protection(
        "a month's budget begins again with the month",
        "gateway/store/scripts/common.lua",
        "if scope[PERIOD + MONTH] ~= month then",
        "if false then",
        f"{_TEST_SETTLE}::test_a_budget_begins_again_with_its_period",
    ),
    Protection(
        "a void frees its idempotency key",
        _SETTLE,
        "elseif kind == 'settle' and ARGV[17] ~= '0' then redis.call('SET', idempotency_key,",
        "elseif true then redis.call('SET', idempotency_key,",
        f"{_TEST_SETTLE}::test_what_cost_nothing_frees_its_idempotency_key",
    ),
    Protection(
        "an estimate is at most its hold",
        "gateway/billing/settlement.py",
        "cost = min(charged.nano_usd, hold.amount_nano_usd)",
        "cost = charged.nano_usd",
        "tests/unit/test_settlement.py::test_an_estimate_never_exceeds_its_hold_at_a_dearer_price_either",
    ),
    Protection(
        "the bound that is held is sent",
        "gateway/proxy/upstream_body.py",
        "            self.output_bound = bound_per_run(request, held_tokens)\n",
        "            pass\n",
        "tests/billing/test_output_bounds.py::test_an_answer_of_a_hundred_thousand_tokens_is_not_had_for_a_hold_of_4096",
    ),
    Protection(
        "ids of what others may have stored are refused",
        "gateway/proxy/field_checks.py",
        "if work.foreign.member and _refuses_foreign_ids(rule.foreign_ids, snapshot):",
        "if False:",
        "tests/billing/test_fields.py::test_by_default_a_team_that_is_alone_may_name_what_is_stored",
    ),
    Protection(
        "models that may answer instead are permitted, too",
        "gateway/proxy/field_checks.py",
        "if all(pattern in other.patterns for other in others))",
        ")",
        "tests/billing/test_fields.py::test_models_that_may_answer_instead_are_held_charged_and_permitted",
    ),
    Protection(
        "the most expensive model that may answer is held",
        "gateway/proxy/reservation.py",
        "_reserve_highest(inputs) if route.instead else _reserve_at_price(inputs, route.price)",
        "_reserve_at_price(inputs, route.price)",
        "tests/billing/test_answered_price.py::test_what_is_held_is_the_most_expensive_model_that_may_answer",
    ),
    Protection(
        "a refusal of an addition counts only where the rest is taken",
        "gateway/proxy/upstream_body.py",
        "        self.refused.setdefault(upstream.name, set()).add(addition.name)\n",
        "        upstream.note_refused(self._admitted.route.upstream_model, addition.name)\n",
        "tests/billing/test_output_bounds.py::test_no_caller_makes_the_gateway_forget_the_bound",
    ),
    Protection(
        "the end waits for settlements on their way",
        "gateway/ledger/ledger.py",
        "        while self._settling:\n            await asyncio.wait(self._settling)\n",
        "",
        f"{_TEST_SETTLE}::test_the_end_waits_for_settlements_that_a_hung_store_has_not_answered",
    ),
    Protection(
        "what was sent is charged though no answer came",
        "gateway/upstream/pool.py",
        "                    progress.sent = True\n",
        "                    pass\n",
        f"{_TEST_UNANSWERED}::test_a_client_that_leaves_before_the_answer_pays_its_input",
    ),
    Protection(
        "nobody else is asked for a client that has left",
        "gateway/proxy/relay.py",
        "            search.give_up()\n",
        "",
        f"{_TEST_UNANSWERED}::test_nobody_else_is_asked_for_a_client_that_has_left",
    ),
    Protection(
        "an attempt that may have begun is journalled",
        "gateway/proxy/failover.py",
        "            self.started_attempts.append(StartedAttempt(upstream.name, fault.kind.value))\n",
        "",
        f"{_TEST_UNANSWERED}::test_an_attempt_that_may_have_begun_is_journalled_beside_the_answer",
    ),
    Protection(
        "what an upstream does not offer is no news of its model's health",
        "gateway/proxy/failover.py",
        "if status in _NOT_OFFERED and target.operation.may_be_missing and not target.operation.by_id:",
        "if False:",
        "tests/dialects/test_count_tokens.py",
    ),
    Protection(
        "counts of tokens have a bound of their own",
        "gateway/proxy/handler.py",
        'if target.operation.charge == "free":',
        "if False:",
        "tests/dialects/test_count_tokens.py::test_it_has_a_bound_of_its_own_which_waiting_as_told_satisfies",
    ),
    Protection(
        "an upstream is asked only for what it offers",
        "gateway/upstream/upstream.py",
        "return not offered or not offered.isdisjoint(operation)",
        "return True",
        "tests/proxy/test_operations.py",
    ),
    Protection(
        "a key uses only the operations that it may",
        "gateway/store/scripts/permitted.lua",
        "if not list or list == '' or names == '' then return true end",
        "if true then return true end",
        "tests/proxy/test_operations.py",
    ),
    Protection(
        "a stream that begins with an error is no answer",
        "gateway/proxy/preamble.py",
        "if error is None or summary.has_content:",
        "if True:",
        "tests/dialects/test_endings.py::test_a_kept_response_that_begins_with_an_error_goes_to_another_upstream",
    ),
    Protection(
        "a row that found its partner by id is not counted by day again",
        "gateway/billing/reconciliation.py",
        "if name not in self._journal_ids}",
        "if True}",
        "tests/unit/test_reconciliation.py",
    ),
)
