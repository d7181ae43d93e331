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
        "an ID token is signed by a key of the provider alone",
        "gateway/oidc/provider.py",
        "            _ALGORITHMS.intersection(self._metadata",
        "            {*_ALGORITHMS, 'HS256', 'none'}.intersection(self._metadata",
        "tests/operators/test_single_sign_on.py::test_an_id_token_that_is_not_valid_signs_nobody_in",
    ),
    Protection(
        "an ID token's claims are checked",
        "gateway/oidc/provider.py",
        "            claims.validate(time.time(), _LEEWAY_S)\n",
        "",
        "tests/operators/test_single_sign_on.py::test_an_id_token_that_is_not_valid_signs_nobody_in",
    ),
    Protection(
        "a sign-in is completed by the browser that began it",
        "gateway/dashboard/single_sign_on.py",
        "if not value or not hmac.compare_digest(",
        "if not value or False and not hmac.compare_digest(",
        "tests/operators/test_single_sign_on.py::test_a_sign_in_that_another_browser_has_begun_is_not_completed",
    ),
    Protection(
        "nobody without a group may sign in",
        "gateway/oidc/person.py",
        "return next((grant for grant in grants if grant.group in person.groups), None)",
        "return next(iter(grants), None)",
        "tests/operators/test_single_sign_on.py::test_nobody_else_may_sign_in",
    ),
    Protection(
        "attempts to sign in at the identity provider are counted by address",
        "gateway/api/admin/sign_in.py",
        "    await services_of(request).sessions.count_attempt(request.app.state.host_of(request.scope))\n",
        "",
        "tests/operators/test_single_sign_on.py::test_a_sign_in_deletes_itself",
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
        "based_on=key.version if depends_on_version else None",
        "based_on=None",
        "tests/operators/test_who_set_a_limit.py::test_a_lead_who_read_the_key_before_the_operator_lifts_nothing",
    ),
    Protection(
        "gateway try waits until its request is settled",
        "gateway/cli/try_prompt.py",
        'if error.code == "request_not_found":',
        "if False:",
        "tests/cli/test_try_prompt.py::test_it_waits_for_the_settlement_and_asks_for_the_balance_afterwards",
    ),
    Protection(
        "refusals in an outage of the store are written when it is back",
        "gateway/reporting/request_reporter.py",
        'if isinstance(fault, GatewayError) and fault.code == "store_unavailable":',
        "if False:",
        "tests/operators/test_why_refused.py::test_a_refusal_while_the_store_is_away_is_found_once_it_is_back",
    ),
)
