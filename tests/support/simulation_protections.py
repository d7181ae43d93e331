"""The protections that only several faults together show, as data: schedules of the simulation miss them."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_SCHEDULES: Final = "tests/simulation/test_schedules.py::test_each_fault_alone_breaks_no_promise"
_FAILOVER: Final = "tests/store/test_lagging_failover.py"
_LEDGER: Final = "gateway/ledger/ledger.py"
_REPLICATION: Final = "gateway/ledger/replication.py"
_UPKEEP: Final = "gateway/ledger/upkeep.py"

SIMULATION_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "an admission that comes late runs no more",
        "gateway/store/scripts/admit_v8.lua",
        "if ARGV[13] ~= '' and now > ARGV[13] + 0 then return refuse('late', '', 0, 0, -1) end",
        "",
        f"{_SCHEDULES}[lost_by_the_client]",
    ),
    Protection(
        "an admission that nobody waits for is voided once more when it cannot run any more",
        "gateway/ledger/abandoned.py",
        "        self._timers[request.request_id] = self._loop.call_later(self._wait_s, self._again, void)\n",
        "",
        "tests/simulation/test_found.py::test_an_admission_that_runs_behind_its_void_keeps_no_slot",
    ),
    Protection(
        "an admission whose reply is lost is voided",
        _LEDGER,
        "if error.maybe_applied:",
        "if False:",
        f"{_SCHEDULES}[cut_at_a_command]",
    ),
    Protection(
        "an admission whose client has left is voided",
        _LEDGER,
        "            except asyncio.CancelledError:\n                self._abandoned.add(request)\n",
        "            except asyncio.CancelledError:\n",
        f"{_SCHEDULES}[slow_network]",
    ),
    Protection(
        "a hold that has expired has a grace when it is first seen",
        "gateway/store/scripts/expire_v3.lua",
        "if expiry % 1 == 0 or now - expiry > life_ms then",
        "if false then",
        f"{_SCHEDULES}[store_stands_still]",
    ),
    Protection(
        "a lease does not end by the time in which the store stood still",
        "gateway/store/scripts/lease_v1.lua",
        "if now - last_call_ms > lease_ms / 2 or now < last_call_ms then",
        "if false then",
        f"{_SCHEDULES}[store_stands_still]",
    ),
    Protection(
        "a worker that was silent gets its holds again",
        _UPKEEP,
        "        if self._leased and not known:\n            await self._restore()\n",
        "",
        f"{_SCHEDULES}[gateway_stands_still]",
    ),
    Protection(
        "running requests get their holds again after a failover",
        _UPKEEP,
        "considered this one dead and voided its holds.\n            await self._restore()\n",
        "considered this one dead and voided its holds.\n            pass\n",
        f"{_FAILOVER}::test_no_acknowledged_settlement_is_lost_where_the_replica_lags_by_half_a_second",
    ),
    Protection(
        "a restored hold counts at a limit whose counter was lost",
        "gateway/store/scripts/restore_v4.lua",
        "    local meter = meter_that_counts(meters, entries, scope, id)\n",
        "    local meter = meters[scope] and meters[scope][id]\n",
        "tests/simulation/test_found.py::test_a_request_whose_admission_a_failover_has_lost_keeps_its_slot",
    ),
    Protection(
        "no more requests of an end user run than may",
        "gateway/store/scripts/end_users_admission.lua",
        "  new = new + (entries[scope] and not known and 1 or 0)\n",
        "  new = new + (entries[scope] and not known and 1 or 0)\n  entry[3] = {}\n",
        f"{_SCHEDULES}[cut_now]",
    ),
    Protection(
        "a slot of an end user comes back when its request ends",
        "gateway/store/scripts/resolving.lua",
        "    if save_resolved then save_resolved(hold, hold.counted, entries, kept_ms, now, -slots) end\n",
        "",
        f"{_SCHEDULES}[cut_now]",
    ),
    Protection(
        "holds of running requests are renewed",
        _UPKEEP,
        "if await hold_expiry.renew(self._store, self._holds.values(), self._hold_ttl_ms):",
        "if False:",
        f"{_SCHEDULES}[store_away]",
    ),
    Protection(
        "what the store has acknowledged is kept until its replicas have it",
        _LEDGER,
        "            posted = self._resolved(reply.result(), args)\n"
        "                self._unreplicated.keep(keys, args, epoch)",
        "            posted = self._resolved(reply.result(), args)",
        f"{_SCHEDULES}[fails_over]",
    ),
    Protection(
        "offsets of a server that may lack a settlement do not confirm it",
        _REPLICATION,
        "        if self.may_have_lost:  # the offsets",
        "        if False:  # the offsets",
        f"{_FAILOVER}::test_offsets_of_a_server_that_was_connected_meanwhile_confirm_nothing",
    ),
    Protection(
        "what a former primary acknowledges late is posted at its successor",
        _REPLICATION,
        "            self._epoch = epoch\n",
        "            pass\n",
        f"{_FAILOVER}::test_what_a_former_primary_acknowledges_after_the_failover_is_posted_at_its_successor",
    ),
    Protection(
        "a worker that stops in an outage spools what the store may have lost",
        _LEDGER,
        "            for keys, args in self._unreplicated.take():",
        "            for keys, args in []:",
        f"{_FAILOVER}::test_a_worker_that_stops_in_an_outage_leaves_what_the_store_may_have_lost_in_the_spool",
    ),
    Protection(
        "settlements that are being posted again survive a stop",
        _LEDGER,
        "                self._unreplicated.put_back(calls[at:])\n",
        "                pass\n",
        f"{_FAILOVER}::test_a_worker_that_stops_while_it_posts_again_posts_the_rest_before_its_end",
    ),
    Protection(
        "a settlement that is posted again changes nothing",
        "gateway/store/scripts/settle_v8.lua",
        "local entry = not before and find_entry(index, journal, ARGV[23], binary_id, 1)",
        "local entry = nil",
        f"{_SCHEDULES}[cut_at_a_command]",
    ),
    Protection(
        "a settlement that the store refuses goes to the spool",
        _LEDGER,
        "        self._spool.add(SETTLE.name, keys, args)\n        self._unsettled",
        "        if not isinstance(error, StoreError):\n            self._spool.add(SETTLE.name, keys, args)\n"
        "        self._unsettled",
        f"{_SCHEDULES}[errors_on_requests]",
    ),
    Protection(
        "a spooled line that the store refuses stays in the spool",
        "gateway/ledger/spool.py",
        "                        remaining.append(line)\n",
        "                        pass\n",
        f"{_SCHEDULES}[errors_on_requests]",
    ),
)
