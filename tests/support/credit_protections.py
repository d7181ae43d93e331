"""Protections of credits that expire: what switches each off, and the test that must fail then."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_LOTS: Final = "gateway/store/scripts/lots.lua"
_ADMIT: Final = "gateway/store/scripts/admit_v8.lua"
_CREDIT: Final = "gateway/store/scripts/credit_v2.lua"
_SETTLE: Final = "gateway/store/scripts/settle_v8.lua"
_TEST: Final = "tests/ledger/test_expiring_credits.py"
_ENDS: Final = f"{_TEST}::test_a_hold_of_before_the_expiry_pays_with_it_and_the_rest_expires"
_GONE: Final = f"{_TEST}::test_a_lot_is_gone_to_the_millisecond_on_every_worker_and_nothing_has_to_run"
_FIRST: Final = f"{_TEST}::test_what_expires_first_is_spent_first_and_a_refund_goes_back_there"
_OPERATORS: Final = "tests/operators/test_expiring_credits.py"

CREDIT_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "credits that have expired are not spent",
        _ADMIT,
        "available, expired_amount = valid, available - valid",
        "",
        _GONE,
    ),
    Protection(
        "credits expire to the millisecond",
        _LOTS,
        "if lots[at] <= now then available = available - lots[at + 1] end",
        "if lots[at] < now then available = available - lots[at + 1] end",
        _GONE,
    ),
    Protection(
        "what expires first is spent first",
        _LOTS,
        "  for at = 1, #lots, 2 do\n    local part = lots[at] > now",
        "  for at = #lots - 1, 1, -2 do\n    local part = lots[at] > now",
        _FIRST,
    ),
    Protection(
        "a hold names what it took of credits that expire",
        _ADMIT,
        "local names = lots_held == '' and counted or",
        "local names = true and counted or",
        _FIRST,
    ),
    Protection(
        "what a hold gives back of credits that have expired since is gone",
        _LOTS,
        "lots[at + 1], cost = lots[at + 1] + amount - paid, cost - paid\n    if paid > 0 then",
        "if expiry + 0 > now then lots[at + 1] = lots[at + 1] + amount end cost = cost - paid\n    if paid > 0 then",
        _ENDS,
    ),
    Protection(
        "a hold pays with the credits that it took although they have expired since",
        _LOTS,
        "expiry + 0 <= now and max(0, min(cost, amount + 0)) or 0",
        "0",
        f"{_ENDS}[settled]",
    ),
    Protection(
        "credits that have expired are journalled although nobody uses the team",
        "gateway/store/scripts/expire_v3.lua",
        "if available ~= stored_available then",
        "if false then",
        f"{_TEST}::test_what_expired_is_journalled_though_nobody_uses_the_team",
    ),
    Protection(
        "what lacked before a grant is paid before the grant can expire",
        _CREDIT,
        "  pay_from_lots(lots, available + amount, now)\n",
        "",
        f"{_TEST}::test_new_credits_pay_what_was_lacking_before_they_can_expire",
    ),
    Protection(
        "lots pay for what an earlier version spent without them",
        _LOTS,
        "  pay_from_lots(lots, available, now)\n  return available",
        "  return available",
        f"{_TEST}::test_lots_pay_for_what_an_earlier_version_spent_without_them",
    ),
    Protection(
        "a corrected estimate gives back to the lots that paid",
        _SETTLE,
        "local kept_lots = is_open and paid_by ~= '' and paid_by",
        "local kept_lots = nil",
        f"{_TEST}::test_a_corrected_estimate_gives_back_to_the_lots_that_paid",
    ),
    Protection(
        "how many different expiries a team may have is bounded",
        _CREDIT,
        "if others >= ARGV[9] + 0 then",
        "if false then",
        f"{_TEST}::test_credits_that_expire_at_one_time_are_one_lot_and_there_is_a_bound",
    ),
    Protection(
        "an expiry belongs to what an idempotency key stands for",
        _CREDIT,
        " and until_ms == ARGV[8]",
        "",
        f"{_TEST}::test_a_movement_is_posted_once_per_idempotency_key_and_its_expiry_belongs_to_it",
    ),
    Protection(
        "a hold that is restored takes no credits that have expired",
        "gateway/store/scripts/restore_v4.lua",
        "available = without_expired(lots, available, now)",
        "",
        f"{_TEST}::test_a_hold_that_is_restored_takes_what_is_there_then",
    ),
    Protection(
        "a refusal says that credits have expired",
        _ADMIT,
        "if code == 'credits' then\n    local lapsed",
        "if false then\n    local lapsed",
        f"{_OPERATORS}::test_a_refusal_says_that_credits_have_expired_until_new_ones_are_granted",
    ),
    Protection(
        "what has expired before a grant is not what a later refusal is about",
        _CREDIT,
        "  redis.call('HDEL', state, 'lapsed', 'lapsed_ms')\n",
        "",
        f"{_OPERATORS}::test_a_refusal_says_that_credits_have_expired_until_new_ones_are_granted",
    ),
    Protection(
        "verification knows how much of the credits that expire there may be",
        "gateway/ledger/verification.py",
        '            (f"lot:{expires_ms}", min(totals.granted_until[expires_ms], found), found)\n',
        '            (f"lot:{expires_ms}", found, found)\n',
        f"{_TEST}::test_verification_finds_a_lot_that_is_larger_than_what_was_granted",
    ),
    Protection(
        "the end of a balance is not put off by credits that expire before",
        "gateway/dashboard/forecast.py",
        "usable -= amount - spendable",
        "usable -= 0",
        "tests/dashboard/test_figures.py::test_what_expires_before_it_is_spent_at_this_rate_does_not_put_off_the_end",
    ),
    Protection(
        "credits that expire are noticed before",
        "gateway/notices/thresholds.py",
        "        yield from _of_credits(recipient, subject)\n",
        "",
        "tests/notices/test_thresholds.py"
        "::test_credits_that_expire_soon_are_noticed_once_for_each_expiry_and_threshold",
    ),
)
