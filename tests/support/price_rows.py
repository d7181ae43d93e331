"""Price rows of any shape, for properties."""

from __future__ import annotations

import operator
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from gateway.billing.rates import KINDS

NOW = 1_795_953_600_000
"""A Sunday, 2026-11-29, at 12:00 UTC."""
# One draw for each number, and each strategy made once: drawing rows is most of what the properties on them cost.
RATES = st.integers(0, 900_000).map(lambda number: str(Decimal(number).scaleb(-4)))
FACTORS = st.sampled_from(["0", "0.5", "1", "1.1", "2", "6"])
TIER_NAMES = ("flex", "priority", "fast", "batch", "scale", "")
TOOLS = ("web_search", "code_interpreter", "x_search")
_BY_KIND = st.dictionaries(st.sampled_from(list(KINDS)), RATES, max_size=4)
_PER_CALL = st.dictionaries(st.sampled_from(TOOLS), RATES, max_size=2)
_MORE = st.fixed_dictionaries({}, optional={"factor": FACTORS, "per_request": RATES, "per_call": _PER_CALL})
TABLES = st.builds(operator.or_, _BY_KIND, _MORE)
STEPS = st.dictionaries(st.integers(1, 3000).map(str), TABLES, max_size=3)
_HOURS = st.fixed_dictionaries(
    {
        "from": st.sampled_from(["00:00", "08:30", "22:00"]),
        "to": st.sampled_from(["03:00", "12:00", "24:00"]),
        "days": st.lists(st.integers(1, 7), min_size=1, max_size=4),
    }
)
_WHEN = st.dictionaries(st.sampled_from(["fast", "us"]), TABLES, max_size=2)
_TIERS = st.dictionaries(st.sampled_from(["flex", "priority", "fast", "batch"]), TABLES, max_size=3)
_OF_A_VERSION = st.fixed_dictionaries(
    {
        "input": RATES,
        "output": RATES,
        "above": STEPS,
        "hours": st.lists(st.builds(operator.or_, TABLES, _HOURS), max_size=2),
        "when": st.dictionaries(st.sampled_from(["speed", "inference_geo"]), _WHEN, max_size=2),
        "per_unit": st.sampled_from([{}, {"hour": "0.111"}, {"second": "0.0001", "page": "0.004"}]),
        "per_image": st.sampled_from([{}, {"hd/1": "0.12", "1": "0.04"}, {"default": "0.03"}]),
        "minimum_seconds": st.sampled_from([0, 10]),
        "tools": st.sampled_from([{}, {"image_generation": {"input": "5", "output_image": "40"}}]),
    }
)
_DAYS = st.sampled_from([(), ("2026-12-01",), ("2026-11-29", "2026-12-03")])


@st.composite
def rows(draw: st.DrawFn, *, versions: bool = True) -> dict[str, Any]:
    row: dict[str, Any] = draw(TABLES) | draw(_OF_A_VERSION)
    row["tiers"] = {
        name: table | {"above": draw(STEPS) or {"100000": {"factor": "1"}}} for name, table in draw(_TIERS).items()
    }
    if versions:
        row["from"] = {day: draw(ROWS_OF_ONE_VERSION) for day in draw(_DAYS)}
    return row


ROWS = rows()
ROWS_OF_ONE_VERSION = rows(versions=False)
