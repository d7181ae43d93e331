"""A journal held against an export: against itself it differs by nothing, and each change is found with its sum."""

from __future__ import annotations

import random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.billing.reconciliation import Reconciliation, Report, Row, TooManyKeysError

DAYS: Final = ("2026-11-01", "2026-11-02")
MODELS: Final = ("openai/gpt-5.2", "openai/gpt-5.2-mini", "claude-opus-5-5")

ids = st.one_of(st.just(""), st.integers(0, 10**6).map("=resp_{}".format))
rows = st.builds(
    Row,
    st.sampled_from(DAYS),
    st.sampled_from(MODELS),
    ids,
    st.integers(1, 10**12),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)
journals = st.lists(rows, min_size=1, max_size=30, unique_by=lambda row: row.response_id or object())


def reconciled(journal: list[Row], export: list[Row]) -> Report:
    books = Reconciliation()
    for row in journal:
        books.add_journal(row)
    for row in export:
        books.add_export(row)
    return books.report()


def total(rows: list[Row]) -> int:
    return sum(row.nano_usd or 0 for row in rows)


@given(journals, st.randoms(use_true_random=False), st.sampled_from(["all", "some", "none"]))
def test_a_journal_against_its_own_export_differs_by_nothing(
    journal: list[Row], chance: random.Random, with_ids: str
) -> None:
    share = {"all": 1.0, "some": 0.5, "none": 0.0}[with_ids]
    export = [row if chance.random() < share else row._replace(response_id="") for row in journal]
    chance.shuffle(export)
    report = reconciled(journal, export)
    assert (report.difference_nano_usd, report.findings, report.is_within(0)) == (0, (), True)


@given(journals, st.data())
def test_a_row_that_the_export_lacks_is_found(journal: list[Row], data: st.DataObject) -> None:
    lost = data.draw(st.sampled_from(journal))
    export = list(journal)
    export.remove(lost)
    report = reconciled(journal, export)
    assert report.difference_nano_usd == -(lost.nano_usd or 0)
    assert not report.is_within((lost.nano_usd or 0) - 1)
    if all(row.response_id for row in journal):
        (finding,) = report.findings
        assert (finding.kind, finding.response_id) == ("missing in the export", lost.response_id)
        assert finding.difference_nano_usd == -(lost.nano_usd or 0)


@given(journals, rows)
def test_a_row_that_the_journal_lacks_is_found(journal: list[Row], more: Row) -> None:
    more = more._replace(response_id="resp_new" if more.response_id else "")
    report = reconciled(journal, [*journal, more])
    assert report.difference_nano_usd == report.absolute_nano_usd == more.nano_usd
    assert len(report.findings) == 1
    if all(row.response_id for row in (*journal, more)):
        assert report.findings[0].kind == "missing in the journal"
        assert report.findings[0].response_id == "resp_new"


@given(journals, st.data(), st.integers(1, 10**9))
def test_an_amount_that_differs_is_found(journal: list[Row], data: st.DataObject, more: int) -> None:
    at = data.draw(st.integers(0, len(journal) - 1))
    export = list(journal)
    export[at] = export[at]._replace(nano_usd=(export[at].nano_usd or 0) + more)
    report = reconciled(journal, export)
    (finding,) = report.findings
    assert (finding.kind, finding.response_id) == ("differs", journal[at].response_id)
    assert finding.difference_nano_usd == report.difference_nano_usd == more
    assert (report.is_within(more), report.is_within(more - 1)) == (True, False)


@given(st.lists(rows, max_size=20), st.lists(rows, max_size=20), st.booleans())
def test_no_row_counts_twice(journal: list[Row], export: list[Row], bare: bool) -> None:
    """Whatever the sides state, what they differ by is what the findings add up to."""
    if bare:
        export = [row._replace(model="") if index % 2 else row for index, row in enumerate(export)]
    report = reconciled(journal, export)
    assert sum(finding.difference_nano_usd for finding in report.findings) == total(export) - total(journal)
    for side, all_rows in (("journal", journal), ("export", export)):
        assert getattr(report, side).rows == len(all_rows)


def test_two_differences_do_not_hide_each_other() -> None:
    journal = [Row(DAYS[0], "a", "r1", 100), Row(DAYS[0], "a", "r2", 100)]
    report = reconciled(journal, [journal[0]._replace(nano_usd=150), journal[1]._replace(nano_usd=50)])
    assert (report.difference_nano_usd, report.absolute_nano_usd) == (0, 100)
    assert not report.is_within(99)


def test_an_id_that_only_one_side_has_is_compared_by_day_and_model() -> None:
    """An answer that was cut before it told its id is billed under it all the same."""
    journal = [Row(DAYS[0], "a", "r1", 100), Row(DAYS[0], "a", "", 40, source="estimate")]
    report = reconciled(journal, [Row(DAYS[0], "a", "r1", 100), Row(DAYS[0], "a", "r2", 45)])
    (finding,) = report.findings
    assert (finding.kind, finding.response_id, finding.difference_nano_usd) == ("differs", "", 5)
    assert (finding.journal.estimates, finding.journal.attempts) == (1, 0)


def test_several_charges_of_one_response_are_one_sum() -> None:
    """A background response is charged its hold first, and corrected when it is read."""
    journal = [Row(DAYS[0], "a", "r1", 100), Row(DAYS[1], "a", "r1", -60)]
    assert reconciled(journal, [Row(DAYS[0], "a", "r1", 40)]).findings == ()


@pytest.mark.parametrize(
    "theirs",
    ["openai/gpt-5.2", "gpt-5.2", "GPT-5.2", "gpt-5.2-2025-12-11", "openai/gpt-5.2-20251211", "azure-deployment"],
)
def test_a_model_is_known_by_the_names_that_providers_use(theirs: str) -> None:
    books = Reconciliation({"azure-deployment": "openai/GPT-5.2"})
    for model in MODELS:
        books.add_journal(Row(DAYS[0], model, "", 10))
    for model in (theirs, *MODELS[1:]):
        books.add_export(Row(DAYS[0], model, "", 10))
    assert books.report().findings == ()


def test_a_name_that_fits_two_models_is_neither() -> None:
    journal = [Row(DAYS[0], "a/m", "", 10), Row(DAYS[0], "b/m", "", 10)]
    assert [one.kind for one in reconciled(journal, [Row(DAYS[0], "m", "", 20)]).findings] == [
        "missing in the journal",
        "missing in the export",
        "missing in the export",
    ]


def test_days_on_which_the_export_names_no_model_are_compared_as_a_whole() -> None:
    journal = [Row(day, model, "", 10) for day in DAYS for model in MODELS]
    export = [Row(DAYS[0], "", "", 30), *(Row(DAYS[1], model, "", 10) for model in MODELS)]
    assert reconciled(journal, export).findings == ()


def test_an_export_of_tokens_is_compared_in_tokens() -> None:
    journal = [Row(DAYS[0], "a", "", 70, 100, 10), Row(DAYS[0], "b", "", 70, 100, 10)]
    export = [Row(DAYS[0], "a", "", None, 100, 10), Row(DAYS[0], "b", "", None, 104, 9)]
    report = reconciled(journal, export)
    (finding,) = report.findings
    assert (finding.model, finding.difference_tokens, report.has_costs) == ("b", 5, False)
    assert not report.is_within(10**18)


def test_an_empty_export_lacks_everything() -> None:
    report = reconciled([Row(DAYS[0], "a", "", 70, 100, 10)], [])
    assert (report.absolute_nano_usd, report.is_within(69), report.is_within(70)) == (70, False, True)


def test_memory_is_bounded_by_the_number_of_keys() -> None:
    books = Reconciliation(max_keys=3)
    for number in range(100):
        books.add_export(Row(DAYS[0], "a", "", number))
    books.add_journal(Row(DAYS[0], "a", "r1", 1))
    books.add_export(Row(DAYS[0], "a", "r1", 1))
    with pytest.raises(TooManyKeysError):
        books.add_export(Row(DAYS[0], "a", "r2", 1))
