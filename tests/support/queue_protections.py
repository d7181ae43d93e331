"""Protections of requests that wait for their turn: what switches each off, and the test that must fail then."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_TEST: Final = "tests/proxy/test_waiting_in_turn.py"

QUEUE_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "who comes later does not go first",
        "gateway/store/scripts/queue.lua",
        "if queued and now < queued + 0 and not place.is_full then place.behind = 'team' end",
        "",
        f"{_TEST}::test_nobody_who_comes_later_goes_first",
    ),
    Protection(
        "requests wait in the order in which they came",
        "gateway/store/scripts/queue.lua",
        "if other.arrived < place.arrived and can_block and",
        "if false and",
        f"{_TEST}::test_who_came_first_is_served_first_over_all_workers",
    ),
    Protection(
        "a key that waits for itself does not stop its team",
        "gateway/store/scripts/queue.lua",
        "local can_block = other.whose == key_id or other.scope == 'team'",
        "local can_block = true",
        f"{_TEST}::test_a_key_that_waits_for_itself_does_not_stop_its_team",
    ),
    Protection(
        "who waits for a model stops no other model",
        "gateway/store/scripts/queue.lua",
        "(other.meter == '' or meters and meters[other.meter])",
        "true",
        f"{_TEST}::test_who_waits_for_a_model_stops_no_other_model_and_is_served_in_order",
    ),
    Protection(
        "the place of a worker that died lapses",
        "gateway/store/scripts/queue.lua",
        "elseif now - seen > SILENT_MS then redis.call('HDEL', queue, entries[i])",
        "elseif false then redis.call('HDEL', queue, entries[i])",
        f"{_TEST}::test_the_place_of_a_worker_that_died_lapses",
    ),
    Protection(
        "a client that leaves frees its place",
        "gateway/ledger/request_queue.py",
        '            if result != "admitted":\n                self._leave(request)\n',
        "",
        f"{_TEST}::test_a_client_that_leaves_frees_its_place_at_once_and_nothing_is_held_while_it_waits",
    ),
)
