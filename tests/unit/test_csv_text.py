"""CSV that no spreadsheet runs, and that loses nothing."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.reporting.csv_text import cell, flat, lines


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\tx", "\rx", "\nx", "-cmd|calc", "\uff1d1", "=", "-"]
)
def test_text_that_a_spreadsheet_would_run_is_text(text: str) -> None:
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("number", ["-1.5", "+3", "-0.000000001", "12", "1e9", -7, 0.5])
def test_numbers_stay_numbers(number: object) -> None:
    assert cell(number) == str(number)


@pytest.mark.parametrize(("value", "text"), [(None, ""), (True, "true"), ([], ""), (["a", "b"], '["a", "b"]')])
def test_other_values_are_plain_text(value: object, text: str) -> None:
    assert cell(value) == text


def test_members_of_objects_are_columns() -> None:
    assert flat({"id": "a", "usage": {"input": 1, "of": {"b": 2}}}) == {
        "id": "a",
        "usage.input": "1",
        "usage.of.b": "2",
    }


def test_rows_need_not_have_the_same_members_and_columns_may_be_given() -> None:
    assert lines([{"a": 1}, {"b": "x,y"}], ("c",)) == 'c,a,b\r\n,1,\r\n,,"x,y"\r\n'
    assert lines([], ("a", "b")) == "a,b\r\n"


@given(
    st.lists(st.dictionaries(st.text(max_size=4), st.one_of(st.text(max_size=6), st.integers(), st.none()), max_size=3))
)
def test_whatever_is_written_is_read_again_and_begins_harmlessly(rows: list[dict[str, Any]]) -> None:
    found = list(csv.reader(io.StringIO(lines(rows), newline="")))
    columns = list(dict.fromkeys(name for row in rows for name in flat(row)))
    assert found[0] == columns or not columns
    for row, cells in zip(rows, [each for each in found[1:] if columns], strict=False):
        assert dict(zip(columns, cells, strict=True)) == {name: flat(row).get(name, "") for name in columns}
        for text in cells:
            assert text[:1] not in ("=", "@", "\t", "\r") or text[1:].isdigit()
