"""Usages with the right cost, to the nano-dollar, each from a published price and a provider's own report."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.billing.cost import Cost, cost_of_usage_nano_usd, itemise
from gateway.billing.price_table import PriceTable
from gateway.config.price_settings import PriceSettings
from gateway.protocol.usage_reader import RequestFacts, read_usage

CASES: Final = json.loads((Path(__file__).parents[1] / "data/prices/cases.json").read_text(encoding="utf-8"))
NOW: Final = "2026-11-29T12:00:00Z"  # a Sunday


def milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


def charged(
    price: dict[str, Any],
    usage: dict[str, Any],
    answer: dict[str, Any] | None = None,
    *,
    dialect: str = "responses",
    request: dict[str, Any] | None = None,
    ended_at: str = NOW,
    others: dict[str, Any] | None = None,
    model: str = "",
) -> Cost:
    row = PriceSettings.model_validate(price).price()
    rows = {name: PriceSettings.model_validate(other).price() for name, other in (others or {}).items()}
    facts = RequestFacts(conditions=tuple(row.when), **(request or {}))
    found = read_usage(dialect, usage, answer or {}, facts)
    assert found is not None
    ended_ms = milliseconds(ended_at)
    table = PriceTable({**rows, model or "asked": row})
    cost = itemise(row, found, ended_ms, table, model)
    assert cost.nano_usd == cost_of_usage_nano_usd(row, found, ended_ms, table, model)
    return cost


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_a_usage_costs_what_the_provider_bills(case: dict[str, Any]) -> None:
    cost = charged(
        case["price"],
        case["usage"],
        case["answer"],
        dialect=case["dialect"],
        request=case.get("request"),
        ended_at=case.get("ended_at", NOW),
        others=case.get("other_prices"),
    )
    assert cost.nano_usd == case["expected_nano_usd"], cost.lines
    assert not cost.unpriced
