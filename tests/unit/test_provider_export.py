"""Exports of providers become rows: CSV by its headings, OpenAI's pages of costs and usage; other files are errors."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from gateway.billing.provider_export import ExportError, csv_rows, page_rows
from gateway.billing.reconciliation import Row

NOV_1_S = 1_793_491_200


def read(text: str, **named: str) -> list[Row]:
    return [charge.row for charge in csv_rows(text.splitlines(keepends=True), named)]


@pytest.mark.parametrize(
    "text",
    [
        "id,created_at,model,cost,input_tokens,output_tokens\nr1,2026-11-01T23:59:59Z,m,0.25,100,7\n",
        (
            "\ufeffResponse ID;Timestamp;Model Name;Total Cost;Prompt Tokens;Completion Tokens\n"
            "r1;2026-11-02T00:30:00+01:00;m;$0.25;100;7\n"
        ),
        (
            "generation_id\tcreated\tmodel_permaslug\tcost_total\ttokens_prompt\ttokens_completion\n"
            f"r1\t{NOV_1_S}\tm\t2.5e-1\t100\t7.0\n\n"
        ),
    ],
    ids=["plain", "semicolons", "tabs"],
)
def test_common_headings_are_known(text: str) -> None:
    assert read(text) == [Row("2026-11-01", "m", "r1", 250_000_000, 100, 7)]


def test_other_headings_are_named() -> None:
    text = "Ref,When,Engine,Paid\nr1,1793491200000,m,0.0000000001\n"
    assert read(text, id="Ref", time="When", model="Engine", cost="Paid") == [Row("2026-11-01", "m", "r1", 1)]
    with pytest.raises(ExportError, match=r"no column is known as the time.*--columns time=HEADING.*'Ref', 'When'"):
        read(text)
    with pytest.raises(ExportError, match=r"no column is known as the cost.*--columns cost=HEADING"):
        read(text, time="When")
    with pytest.raises(ExportError, match=r"no column 'Price'; the columns are 'Ref'"):
        read(text, time="When", cost="Price")
    with pytest.raises(ExportError, match="the columns are none"):
        read("")


@pytest.mark.parametrize("text", ["=SUM(A1)", "+r", "-r", "@r", "'=r"])
def test_cells_that_look_like_formulas_are_data(text: str) -> None:
    (row,) = read(f'id,date,model,cost\n{text},2026-11-01,"{text}",-0.5\n')
    assert row == Row("2026-11-01", text, text, -500_000_000)


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ("yesterday,1", "line 3: 'yesterday' is not a time"),
        ("999999999999999999,1", "line 3: .* is beyond the calendar"),
        ("2026-11-01,one", "line 3: 'one' is not an amount"),
        ("2026-11-01,NaN", "line 3: 'NaN' is not an amount"),
        ('2026-11-01,"1,5"', "line 3: '1,5' is not an amount"),
        ("2026-11-01,1,-3", "line 3: '-3' is not a number of tokens"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(cells: str, why: str) -> None:
    with pytest.raises(ExportError, match=why):
        read(f"date,cost,input_tokens\n2026-11-01,1,1\n{cells}\n")


def page(*results: dict[str, Any]) -> dict[str, Any]:
    bucket = {"object": "bucket", "start_time": NOV_1_S, "end_time": NOV_1_S + 86_400, "results": list(results)}
    return {"object": "page", "data": [bucket], "has_more": False, "next_page": None}


def test_a_page_of_costs() -> None:
    amounts = [Decimal("0.06"), "0.0612345000000000000000000000", 1]
    costs = [
        {"amount": {"value": value, "currency": "usd"}, "line_item": "gpt-5.2-2025-12-11, input"} for value in amounts
    ]
    assert [charge.row for charge in page_rows(page(*costs, {**costs[0], "line_item": None}))] == [
        Row("2026-11-01", "gpt-5.2-2025-12-11", "", 60_000_000),
        Row("2026-11-01", "gpt-5.2-2025-12-11", "", 61_234_500),
        Row("2026-11-01", "gpt-5.2-2025-12-11", "", 1_000_000_000),
        Row("2026-11-01", "", "", 60_000_000),
    ]


def test_a_page_of_usage() -> None:
    result = {"input_tokens": 1000, "output_tokens": 500, "input_cached_tokens": 800, "model": "gpt-5.2"}
    (charge,) = page_rows(page(result))
    assert charge == (NOV_1_S * 1000, Row("2026-11-01", "gpt-5.2", "", None, 1000, 500))


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (page({"amount": {"value": 1, "currency": "eur"}}), "'eur', not in USD"),
        (page({"amount": {"value": None, "currency": "usd"}}), "'None' is not an amount"),
        (page({"line_item": "x"}), "neither an amount nor tokens"),
        ({"data": [{"results": []}]}, "is not a time"),
        ({"data": [{"start_time": 1}]}, "no list"),
        ({"error": "no"}, "no page"),
        (7, "no page"),
    ],
)
def test_a_page_that_is_none_is_named(found: object, why: str) -> None:
    with pytest.raises(ExportError, match=why):
        list(page_rows(found))
