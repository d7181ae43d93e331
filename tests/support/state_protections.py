"""The protections of kept state, of WebSocket mode and of sockets to upstreams, as in protections.py."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_CONNECTION: Final = "gateway/http/websocket_connection.py"
_SESSION: Final = "gateway/websocket/session.py"
_SOCKETS: Final = "gateway/websocket/sockets.py"
_UPGRADE: Final = "gateway/websocket/upgrade.py"
_POOL: Final = "gateway/upstream/websocket_pool.py"
_UPSTREAM: Final = "gateway/upstream/websocket.py"
_END: Final = "gateway/store/scripts/background_end_v2.lua"
_PAST: Final = "gateway/state/past.py"
_TEST_BODIES: Final = "tests/security/test_conversation_bodies.py"
_TEST_KEPT: Final = "tests/state/test_kept_state.py"
_TEST_FOREIGN: Final = "tests/state/test_foreign_ids.py"
_TEST_JOBS: Final = "tests/state/test_background_store.py"
_TEST_BOUNDS: Final = "tests/websocket/test_bounds.py"
_TEST_MEMORY: Final = "tests/websocket/test_memory.py"
_TEST_ENDS: Final = "tests/websocket/test_ends.py"
_TEST_ONCE: Final = "tests/state/test_summary_once.py"
_TEST_UPGRADES: Final = "tests/websocket/test_upgrades.py"
_TEST_UPSTREAMS: Final = "tests/websocket/upstreams/test_bounds_of_sockets.py"

STATE_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "responses are kept under their team",
        "gateway/store/keyspace.py",
        'return [self._name(name) for name in ("responses", ',
        'return ["gw:{all}:" + name for name in ("responses", ',
        f"{_TEST_KEPT}::test_a_response_of_another_team_reads_as_one_that_never_was",
    ),
    Protection(
        "what is sealed opens for its team alone",
        "gateway/state/sealing.py",
        'return f"{self._purpose}/{team_id}".encode()',
        'return f"{self._purpose}/{team_id[:0]}".encode()',
        "tests/state/test_compaction.py::test_an_item_of_another_team_and_one_that_was_changed_are_refused_by_name",
    ),
    Protection(
        "a key that is not alive reads nothing that is kept",
        "gateway/store/scripts/response_walk_v3.lua",
        "if invalid then return",
        "if false then return",
        "tests/state/test_stored_responses.py::test_a_key_that_is_not_alive_reads_nothing",
    ),
    Protection(
        "only a finished response is continued",
        "gateway/state/responses.py",
        "if not found and record.status not in _CONTINUABLE:",
        "if False:",
        "tests/state/test_stored_responses.py::test_only_a_finished_response_can_be_continued",
    ),
    Protection(
        "a conversation has a bounded number of items",
        "gateway/store/scripts/conversation_append.lua",
        "if redis.call('HLEN', conversation) + last - first >= MAX_ITEMS then return -1 end",
        "",
        "tests/state/test_conversations.py::test_the_number_of_its_items_is_bounded",
    ),
    Protection(
        "a call adds a bounded number of items to a conversation",
        "gateway/api/conversations.py",
        'check_number(given or (), "items")',
        "pass",
        f"{_TEST_BODIES}::test_the_items_of_one_step_are_bounded",
    ),
    Protection(
        "a turn adds a bounded number of items to a conversation",
        "gateway/state/turns.py",
        'check_number(new, "input")',
        "pass",
        f"{_TEST_BODIES}::test_a_turn_that_adds_too_many_items_is_refused_before_it_costs_anything",
    ),
    Protection(
        "large bodies of conversations count against the worker's memory",
        "gateway/api/json_bodies.py",
        "    if held_bytes:\n        memory.take(held_bytes)\n",
        "    held_bytes = 0\n",
        f"{_TEST_BODIES}::test_a_large_body_counts_until_it_is_done_with",
    ),
    Protection(
        "values of a conversation's body are bounded before it is parsed",
        "gateway/api/json_bodies.py",
        "        check_bounds(without(body, cut_places(body, find_attachments(body))), bounds)\n",
        "        pass\n",
        f"{_TEST_BODIES}::test_whatever_becomes_of_a_call_nothing_stays_held",
    ),
    Protection(
        "a response that is too large is not kept",
        "gateway/state/responses.py",
        "if len(packed) > self.policy.max_response_bytes:",
        "if False:",
        "tests/state/test_stored_responses.py::test_a_response_beyond_the_bound_is_not_kept",
    ),
    Protection(
        "items that the gateway has not made are not passed on",
        "gateway/state/references.py",
        "if named_item is None and not passes_foreign_ids:",
        "if False:",
        f"{_TEST_KEPT}::test_a_reference_to_what_the_gateway_has_not_made_is_refused",
    ),
    Protection(
        "responses that the gateway has not made are not passed on",
        _PAST,
        "if missing.response_id != previous or not _may_be_the_providers(request, previous):",
        "if missing.response_id != previous:",
        f"{_TEST_FOREIGN}::test_where_they_are_refused_nothing_is_sent",
    ),
    Protection(
        "a chain through a deleted response is not passed on",
        _PAST,
        "if missing.response_id != previous or not _may_be_the_providers(request, previous):",
        "if not _may_be_the_providers(request, previous):",
        f"{_TEST_FOREIGN}::test_a_chain_through_a_deleted_response_stays_refused",
    ),
    Protection(
        "what only the provider can see is held for",
        "gateway/proxy/admission.py",
        "request = request._replace(work=request.work._replace(unseen=True))",
        "pass",
        f"{_TEST_FOREIGN}::test_what_only_the_provider_can_see_is_held_for",
    ),
    Protection(
        "what agents send again is stored once",
        "gateway/state/turns.py",
        "with_ids(upstream_input.own)",
        "with_ids(new)",
        "tests/state/test_repeated_items.py::test_a_call_that_is_sent_again_beside_its_output_goes_on_for_many_turns",
    ),
    Protection(
        "a worker whose lease has lapsed ends nothing",
        _END,
        "if who == 'worker' and job.ends < now then",
        "if false then",
        f"{_TEST_JOBS}::test_a_worker_whose_lease_has_lapsed_ends_nothing",
    ),
    Protection(
        "another worker's token ends nothing",
        _END,
        "if job.token ~= ARGV[3] then return 0 end",
        "",
        f"{_TEST_JOBS}::test_a_token_of_another_worker_ends_and_renews_nothing",
    ),
    Protection(
        "a message over the bound ends the socket",
        "gateway/http/websocket_handshake.py",
        "max_size=options.max_message_bytes,",
        "max_size=None,",
        f"{_TEST_BOUNDS}::test_a_message_over_the_bound_ends_the_socket_with_1009",
    ),
    Protection(
        "a client that does not read has a deadline",
        _CONNECTION,
        "if self.write_paused and now_s - self._paused_since_s >= self._bounds.write_timeout_s:",
        "if False:",
        f"{_TEST_BOUNDS}::test_a_client_that_does_not_read_is_ended_and_small_reads_win_no_time",
    ),
    Protection(
        "what waits for a client is bounded",
        _CONNECTION,
        "if self.is_open and self.transport.get_write_buffer_size() > self._bounds.max_unsent_bytes:",
        "if False:",
        f"{_TEST_BOUNDS}::test_more_than_may_wait_for_a_client_ends_it",
    ),
    Protection(
        "turns that wait are bounded in bytes",
        _SESSION,
        "or self._queued_bytes + size > bounds.max_queued_bytes:",
        "or False:",
        "tests/websocket/test_turns.py::test_bytes_that_wait_are_bounded",
    ),
    Protection(
        "what a socket remembers is bounded",
        _SESSION,
        "elif self.memory.size > self._worker.bounds.max_memory_bytes:",
        "elif False:",
        f"{_TEST_MEMORY}::test_a_socket_that_remembers_too_much_is_closed_between_two_turns",
    ),
    Protection(
        "what all sockets remember is bounded",
        _SOCKETS,
        "if self.memory_bytes > self.policy.max_memory_bytes:",
        "if False:",
        f"{_TEST_MEMORY}::test_what_a_worker_remembers_is_bounded_and_the_socket_that_was_used_least_lately_goes",
    ),
    Protection(
        "the socket of a dead key is closed",
        _SESSION,
        "if turn.is_unauthorized:",
        "if False:",
        f"{_TEST_ENDS}::test_a_revoked_keys_next_turn_is_refused_and_the_socket_is_closed",
    ),
    Protection(
        "a key has a bounded number of sockets",
        _SOCKETS,
        "if self._by_key[key_id] >= max_sockets:",
        "if False:",
        f"{_TEST_BOUNDS}::test_a_key_has_a_bounded_number_of_sockets",
    ),
    Protection(
        "a browser's key is never echoed",
        _UPGRADE,
        "if not name.startswith(_VENDOR_PREFIX)), None)",
        "if name), None)",
        f"{_TEST_UPGRADES}::test_a_browsers_key_comes_as_a_subprotocol_and_is_never_echoed",
    ),
    Protection(
        "a browser's key is no header of a turn",
        _UPGRADE,
        "if name not in _UPGRADE_ONLY and not name.startswith(_UPGRADE_ONLY_PREFIX)",
        "if name not in _UPGRADE_ONLY",
        "tests/websocket/test_browser_keys.py::test_no_turn_has_it_in_another_header_than_a_programs_key",
    ),
    Protection(
        "no setting forwards a browser's key",
        "gateway/config/types.py",
        '    | {f"sec-websocket-{name}" for name in ("protocol", "key", "version", "extensions")}\n',
        "",
        "tests/unit/test_forwarded_headers.py::test_no_setting_forwards_a_key_or_what_belongs_to_one_connection",
    ),
    Protection(
        "only listed headers reach an upstream",
        "gateway/protocol/forwarded_headers.py",
        "if name in passed or name in of_dialect or name.startswith(prefix):",
        'if name != b"content-length":',
        "tests/faults/test_request_safety.py::test_only_listed_headers_reach_the_upstream",
    ),
    Protection(
        "pages of other origins open no socket",
        _UPGRADE,
        "        if origin is None:\n",
        "        if True:\n",
        f"{_TEST_UPGRADES}::test_pages_of_other_origins_open_no_socket",
    ),
    Protection(
        "an upstream's key has a bounded number of sockets",
        _POOL,
        "if self._by_key[fingerprint] >= self.config.max_connections:",
        "if False:",
        f"{_TEST_UPSTREAMS}::test_more_sockets_than_a_key_may_have_go_by_post",
    ),
    Protection(
        "the hold of a successor covers what the steered turn may still say",
        "gateway/proxy/body_reading.py",
        "    if client.follows_answer:\n",
        "    if False:\n",
        "tests/websocket/upstreams/test_steering.py"
        "::test_the_hold_of_a_successor_covers_what_the_steered_turn_may_still_say",
    ),
    Protection(
        "steering that waits is bounded",
        "gateway/websocket/steering.py",
        "if len(earlier) >= self._max_waiting or",
        "if False or",
        "tests/websocket/upstreams/test_steering.py::test_steering_that_waits_is_bounded",
    ),
    Protection(
        "an item of an id that is known, and that says something else, is an item of its own",
        "gateway/state/chain.py",
        'return _is_compatible({**before, "status": None}, item)',
        "return True",
        "tests/state/test_repeated_items.py::test_items_of_one_id_that_say_something_else_are_all_taken",
    ),
    Protection(
        "what was made here is not looked for at the provider",
        _PAST,
        "return request.passes_foreign_ids and not is_own(identifier)",
        "return request.passes_foreign_ids",
        f"{_TEST_FOREIGN}::test_what_was_made_here_is_not_looked_for_at_the_provider",
    ),
    Protection(
        "where foreign ids pass, every response has an id of the gateway's",
        "gateway/state/turn.py",
        "is_usable_id(identifier) and not self.has_own_id",
        "is_usable_id(identifier)",
        f"{_TEST_FOREIGN}::test_what_was_made_here_is_not_looked_for_at_the_provider",
    ),
    Protection(
        "items are not looked for at a provider that may store what is deleted here",
        "gateway/state/turns.py",
        'return self.passes_foreign_ids and self.rule.upstream_store == "false"',
        "return self.passes_foreign_ids",
        f"{_TEST_FOREIGN}::test_items_of_deleted_responses_are_not_looked_for_at_a_provider_that_may_store_them",
    ),
    Protection(
        "a response that is kept here is not asked for at its provider",
        "gateway/proxy/settling.py",
        'admitted.route.rule.state == "upstream"',
        'admitted.route.rule.state != "none"',
        f"{_TEST_FOREIGN}::test_a_deleted_response_is_not_asked_for_at_a_provider_that_may_store_it",
    ),
    Protection(
        "a response that has outlived its time is not read",
        "gateway/state/responses.py",
        "        return used is None or float(used)",
        "        return used is None or 1e30",
        f"{_TEST_FOREIGN}::test_what_was_made_here_is_not_looked_for_at_the_provider",
    ),
    Protection(
        "a summary is made once for an Idempotency-Key",
        "gateway/proxy/compactor.py",
        "_replace(followed_by=followed_by)",
        "_replace(idempotency_key=None)",
        f"{_TEST_ONCE}::test_of_two_at_once_one_runs_and_one_summary_is_made",
    ),
    Protection(
        "an Idempotency-Key is taken between a summary and its request",
        "gateway/store/scripts/settle_v8.lua",
        "  if follower then redis",
        "  if false then redis",
        f"{_TEST_ONCE}::test_between_its_summary_and_its_own_admission_the_key_is_taken",
    ),
    Protection(
        "an Idempotency-Key is free again if its request does not follow its summary",
        "gateway/ledger/ledger.py",
        "                await self._store.call(FREE, [name], [request.request_id])\n",
        "                pass\n",
        f"{_TEST_ONCE}::test_one_that_does_not_follow_its_summary_may_be_sent_again",
    ),
    Protection(
        "a chain that is too long for one script is renewed whole",
        "gateway/state/responses.py",
        "        if len(ids) >= _SLICE_TURNS:\n",
        "        if False:\n",
        "tests/state/test_stored_responses.py::test_a_chain_may_have_as_many_turns_as_the_setting_says",
    ),
    Protection(
        "one script removes a bounded part of a long chain",
        "gateway/store/scripts/response_entries.lua",
        "and id ~= new_id and left > 0 do",
        "and id ~= new_id do",
        "tests/state/test_stored_responses.py::test_a_long_chain_goes_piece_by_piece_and_from_its_end",
    ),
    Protection(
        "lists show what the specification requires of an item",
        "gateway/state/items.py",
        "    if kind not in _SPECIFIED:\n",
        "    if True:\n",
        "tests/state/test_specification.py::test_everything_that_the_gateway_makes_is_what_the_specification_describes",
    ),
    Protection(
        "a response that the gateway begins has what its request left out",
        "gateway/state/snapshot.py",
        "        if name in echoed:\n",
        "        if False:\n",
        "tests/state/test_specification.py::test_everything_that_the_gateway_makes_is_what_the_specification_describes",
    ),
    Protection(
        "what waits in the background and is cancelled gives the hold of its summary back",
        "gateway/proxy/background_runner.py",
        "            await summary.discard(run.admitted)\n",
        "",
        "tests/state/test_compaction_in_background.py"
        "::test_one_that_waits_is_cancelled_and_gives_the_summarys_hold_back",
    ),
    Protection(
        "others are served while a long message is written to an upstream",
        "gateway/upstream/websocket_writer.py",
        "SLICE_BYTES: Final = 128 * 1024",
        "SLICE_BYTES: Final = 128 * 1024 * 1024",
        "tests/websocket/upstreams/test_long_messages.py::test_others_are_served_while_a_long_message_is_written",
    ),
    Protection(
        "an upstream that does not read is waited for",
        "gateway/upstream/websocket_writer.py",
        "if unwritten is None or self._is_paused:",
        "if unwritten is None:",
        "tests/websocket/upstreams/test_long_messages.py::test_an_upstream_that_does_not_read_is_waited_for",
    ),
    Protection(
        "a response that nobody asked for ends the upstream's socket",
        _UPSTREAM,
        "        elif head.kind == CREATED:\n            self.abort()\n",
        "",
        f"{_TEST_UPSTREAMS}::test_a_response_that_nobody_asked_for_ends_the_socket",
    ),
    Protection(
        "what ends after its client has left is not remembered",
        "gateway/websocket/turn.py",
        "if self._socket.connection.is_open:  # else its memory has been cleared",
        "if True:  #",
        "tests/websocket/test_memory.py::test_a_response_that_ends_after_its_client_has_left_is_not_remembered",
    ),
)
