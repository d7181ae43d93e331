"""Every row of the table of protections can be switched off, and names a test that there is."""

import pytest

from tests.support.mutants import EVERY
from tests.support.program import ROOT
from tests.support.protections import Protection


@pytest.mark.parametrize("row", EVERY, ids=lambda row: row.name)
def test_a_protection_stands_once_where_its_row_says_and_has_its_test(row: Protection) -> None:
    source = (ROOT / row.file).read_text(encoding="utf-8")
    assert source.count(row.text) == 1
    assert row.text != row.instead
    path, _, name = row.test.partition("[")[0].partition("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8") if name else (ROOT / path).exists()


def test_no_two_rows_have_one_name() -> None:
    assert len({row.name for row in EVERY}) == len(EVERY)
