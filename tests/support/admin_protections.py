"""Protections of those who run the gateway: what switches each off, and the test that must fail then."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

ADMIN_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "a replaced secret of an admin key works until its overlap ends",
        "gateway/store/scripts/admin_use_v2.lua",
        "if stored[1] ~= ARGV[1] and now >= ends_ms then return { now } end",
        "if stored[1] ~= ARGV[1] and not stored[2] then return { now } end",
        "tests/operators/test_admin_rotation.py::test_both_secrets_work_until_the_overlap_ends",
    ),
    Protection(
        "a repeated rotation of an admin key restores no secret",
        "gateway/store/scripts/admin_rotate_v1.lua",
        "  if hash == new then return { 2, 0 } end\n",
        "",
        "tests/operators/test_admin_rotation.py::test_a_repeated_rotation_gives_the_same_secret_and_never_restores_one",
    ),
    Protection(
        "an admin key has a bounded number of calls at once",
        "gateway/concurrency/caller_turns.py",
        "elif len(caller.waiting) >= self._max_waiting:",
        "elif False:",
        "tests/operators/test_admin_load.py::test_beyond_the_bound_an_admin_key_is_told_when_to_come_back",
    ),
    Protection(
        "what a lead may change is decided for one version of the key",
        "gateway/accounts/accounts.py",
        "await self._records.configure(name, {**changes.fields(), **held}, key.version)",
        "await self._records.configure(name, {**changes.fields(), **held}, None)",
        "tests/operators/test_who_set_a_limit.py::test_a_lead_who_is_quicker_than_the_operator_lifts_nothing",
    ),
)
