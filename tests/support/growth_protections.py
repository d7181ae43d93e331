"""The protections of what the store keeps and of what leaves it for files, as in protections.py."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_SETTLE: Final = "gateway/store/scripts/settle_v8.lua"
_LOOKUP: Final = "gateway/store/scripts/index_lookup.lua"
_TEST: Final = "tests/ledger/test_growth.py"
_TEST_ARCHIVE: Final = "tests/admin/test_archive.py"

GROWTH_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "the index finds how a hold ended, whatever the lifetimes are by then",
        _LOOKUP,
        "if values[place] == id then return",
        "if false then return",
        f"{_TEST}::test_a_changed_lifetime_charges_nothing_twice",
    ),
    Protection(
        "a hold whose entry is gone has ended all the same",
        _LOOKUP,
        ">= times[at] then return {} end",
        ">= times[at] then return nil end",
        f"{_TEST}::test_what_ended_is_not_charged_again_where_the_journal_has_been_trimmed",
    ),
    Protection(
        "what an older version ended is not charged again",
        _SETTLE,
        "local before = redis.call('GET', KEYS[11])",
        "local before = false",
        f"{_TEST}::test_what_a_version_before_this_one_ended_is_not_charged_again",
    ),
    Protection(
        "the texts of a team's entries are bounded",
        _SETTLE,
        "  if known_texts >= MAX_TEXTS then return text end\n",
        "",
        f"{_TEST}::test_texts_beyond_the_bound_stand_in_the_entries",
    ),
    Protection(
        "a response is forgotten when its time is over",
        "gateway/store/scripts/look_v3.lua",
        "+ ARGV[5] < now then break end",
        "+ ARGV[5] < 0 then break end",
        f"{_TEST}::test_a_response_is_forgotten_when_its_time_is_over",
    ),
    Protection(
        "nothing leaves the journal that a file does not have",
        "gateway/ledger/archived.py",
        "    if Part(sums.through, sums.entries, digest.hexdigest()) != part:",
        "    if Part(sums.through, sums.entries, part.digest) != part:",
        f"{_TEST_ARCHIVE}::test_a_file_that_differs_keeps_the_journal",
    ),
    Protection(
        "what settlement still needs does not leave the journal",
        "gateway/api/admin/journal.py",
        '    if int(body.through.partition("-")[0]) >= youngest_ms:',
        "    if youngest_ms < 0:",
        f"{_TEST_ARCHIVE}::test_what_is_still_needed_stays",
    ),
    Protection(
        "the sums of what left the journal are carried forward",
        "gateway/ledger/verification.py",
        "_JournalTotals(ledger_state.archived if ledger_state.is_complete else Archived())",
        "_JournalTotals(Archived())",
        f"{_TEST_ARCHIVE}::test_days_leave_for_files_and_the_books_still_add_up",
    ),
)
