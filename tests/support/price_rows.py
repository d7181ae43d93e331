"""Price rows of any shape, for properties."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from gateway.billing.rates import KINDS

NOW = 1_795_953_600_000
"""A Sunday, 2026-11-29, at 12:00 UTC."""
RATES = st.decimals("0", "90", places=4).map(str)
FACTORS = st.sampled_from(["0", "0.5", "1", "1.1", "2", "6"])
TIER_NAMES = ("flex", "priority", "fast", "batch", "scale", "")
TOOLS = ("web_search", "code_interpreter", "x_search")


def tables(*, fees: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    rates = st.dictionaries(st.sampled_from(list(KINDS)), RATES, max_size=4)
    more: dict[str, st.SearchStrategy[Any]] = {"factor": FACTORS}
    if fees:
        more |= {"per_request": RATES, "per_call": st.dictionaries(st.sampled_from(TOOLS), RATES, max_size=2)}
    return st.builds(lambda a, b: {**a, **b}, rates, st.fixed_dictionaries({}, optional=more))


STEPS = st.dictionaries(st.integers(1, 3000).map(str), tables(), max_size=3)


@st.composite
def rows(draw: st.DrawFn, *, versions: bool = True) -> dict[str, Any]:
    row = draw(tables()) | {"input": draw(RATES), "output": draw(RATES)}
    row["above"] = draw(STEPS)
    row["hours"] = draw(
        st.lists(
            st.builds(
                lambda table, start, until, days: table | {"from": start, "to": until, "days": days},
                tables(),
                st.sampled_from(["00:00", "08:30", "22:00"]),
                st.sampled_from(["03:00", "12:00", "24:00"]),
                st.lists(st.integers(1, 7), min_size=1, max_size=4),
            ),
            max_size=2,
        )
    )
    row["when"] = draw(
        st.dictionaries(
            st.sampled_from(["speed", "inference_geo"]),
            st.dictionaries(st.sampled_from(["fast", "us"]), tables(), max_size=2),
            max_size=2,
        )
    )
    row["tiers"] = {
        name: table | {"above": draw(STEPS) or {"100000": {"factor": "1"}}}
        for name, table in draw(
            st.dictionaries(st.sampled_from(["flex", "priority", "fast", "batch"]), tables(), max_size=3)
        ).items()
    }
    row["per_unit"] = draw(st.sampled_from([{}, {"hour": "0.111"}, {"second": "0.0001", "page": "0.004"}]))
    row["per_image"] = draw(st.sampled_from([{}, {"hd/1": "0.12", "1": "0.04"}, {"default": "0.03"}]))
    row["minimum_seconds"] = draw(st.sampled_from([0, 10]))
    row["tools"] = draw(st.sampled_from([{}, {"image_generation": {"input": "5", "output_image": "40"}}]))
    if versions:
        days = draw(st.sampled_from([(), ("2026-12-01",), ("2026-11-29", "2026-12-03")]))
        row["from"] = {day: draw(rows(versions=False)) for day in days}
    return row
