"""Limits that hold for a while, in any order of changes, requests and times: they let through what a model does."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.accounts.limit_names import MODELS, read_limit_name
from gateway.accounts.overrides import Override
from gateway.billing.settlement import Hold
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger.verification import verify
from tests.support.ledgers import ask, settled
from tests.support.stopped_clock import START_MS, Bench, Place, new_key

MINUTE_MS: Final = 60_000
BUDGETS: Final = (
    "budget_usd_hour",
    "budget_usd_day",
    "budget_tokens_total",
    "budget_usd_week",
    "budget_usd_7d",
    "budget_usd_day@p/*",
)


@dataclass
class Model:
    """Limits of which each request counts whole: those that hold, and what each has counted since it is there."""

    limits: dict[str, int]
    overrides: dict[str, Override] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    used: Counter[tuple[str, int]] = field(default_factory=Counter)
    open: list[tuple[Hold, dict[str, int]]] = field(default_factory=list)
    changes: int = 0

    def look(self, now_ms: int) -> None:
        """Notes which limits are there now; one that was away counts anew. Plain ones always count."""
        self.changes += 1
        for name in NAMES:
            there = MODELS not in name or name in self.limits or self.override_at(name, now_ms) is not None
            if not there:
                self.since.pop(name, None)
            else:
                self.since.setdefault(name, self.changes)

    def override_at(self, name: str, now_ms: int) -> Override | None:
        override = self.overrides.get(name)
        return override if override is not None and now_ms < override.until_ms else None

    def limit(self, name: str, now_ms: int) -> int | None:
        override = self.override_at(name, now_ms)
        return override.value if override is not None else self.limits.get(name)

    def over(self, amount: int, tokens: int, now_ms: int) -> set[str]:
        found = set()
        for name in self.since:
            limit, more = self.limit(name, now_ms), _more(name, amount, tokens)
            if limit is not None and more and self.used[name, self.since[name]] + more > limit:
                found.add(name)
        return found


def _more(name: str, amount: int, tokens: int) -> int:
    return 1 if name.startswith("concurrency") else amount if "usd" in name else tokens


NAMES: Final = (
    "concurrency",
    "budget_usd_total",
    "budget_tokens_total",
    "concurrency@p/*",
    "budget_usd_total@p/m",
    "budget_tokens_total@*",
)
VALUE: Final = st.integers(0, 60)
steps = st.lists(
    st.tuples(
        st.sampled_from(["admit", "admit", "admit", "settle", "override", "override", "end", "limit", "wait"]),
        st.sampled_from(NAMES),
        st.none() | VALUE,
        st.integers(1, 30),
        st.sampled_from([1, 999, 1000]),
    ),
    max_size=30,
)


@given(limits=st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=4), of_key=st.booleans(), steps=steps)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_limits_and_what_holds_instead_count_what_a_plain_model_counts(
    place: Place, limits: dict[str, int], of_key: bool, steps: list[Any]
) -> None:
    async def play() -> None:
        async with place.bench() as bench:
            key = await new_key(bench, limits, of_key)
            model = Model(dict(limits))
            for step in steps:
                model.look(bench.now_ms)
                await _play(bench, key, of_key, model, step)
            model.look(bench.now_ms)
            shown = await bench.shown(key, of_key)
            assert {name: _shown_value(one) for name, one in shown.items()} == {
                name: model.limit(name, bench.now_ms)
                for name in NAMES
                if name in model.limits or model.override_at(name, bench.now_ms)
            }
            assert (await verify(bench.one.store, key.team_id)).differences == ()

    asyncio.run(play())


def _shown_value(one: dict[str, Any]) -> int | None:
    usd = one.get("limit_usd")
    return round(float(usd) * 1e9) if usd is not None else one.get("limit")


async def _play(bench: Bench, key: ApiKey, of_key: bool, model: Model, step: Any) -> None:
    kind, name, value, number, ms = step
    now_ms = bench.now_ms
    if kind == "wait":
        await bench.at(now_ms + ms)
    elif kind == "override":
        override = Override(value, now_ms + 1000 * (1 + number % 3))
        await bench.override(key, of_key, overrides={name: override})
        model.overrides[name] = override
    elif kind == "end":
        await bench.override(key, of_key, overrides={name: None})
        model.overrides.pop(name, None)
    elif kind == "limit":
        await bench.override(key, of_key, limits={name: value})
        model.limits.pop(name, None)
        model.limits |= {} if value is None else {name: value}
    elif kind == "settle" and model.open:
        hold, counted = model.open.pop(number % len(model.open))
        tokens = hold.input_tokens + hold.output_tokens
        await bench.one.ledger.settle(settled(hold, number, number))
        for one, since in counted.items():
            slots = one.startswith("concurrency")
            model.used[one, since] += -1 if slots else _more(one, number - hold.amount_nano_usd, number - tokens)
    elif kind == "admit":
        over = model.over(number, ms % 30, now_ms)
        request = ask(key, number, ms % 30)
        if over:
            with pytest.raises(GatewayError) as refused:
                await bench.one.ledger.admit(request)
            named = refused.value.explain["limit"], refused.value.explain.get("model_pattern")
            assert f"{named[0]}{MODELS}{named[1]}" in over or named[0] in over
            return
        model.open.append(((await bench.one.ledger.admit(request)).hold, dict(model.since)))
        for one, since in model.since.items():
            model.used[one, since] += _more(one, number, ms % 30)


@dataclass
class Bucket:
    """A rate, as a plain model counts it: a level in units x 60000, and its time."""

    limit: int | None
    override: Override | None
    at_ms: int
    level: int = 0

    def now(self, now_ms: int) -> int | None:
        override = self.override
        return override.value if override is not None and now_ms < override.until_ms else self.limit

    def bring(self, now_ms: int) -> None:
        override = self.override
        if override is not None and self.at_ms < override.until_ms <= now_ms:
            self._drain(override.value, override.until_ms)
            self.level = min(self.level, (self.limit or 0) * MINUTE_MS)
        self._drain(self.now(now_ms), now_ms)

    def _drain(self, limit: int | None, now_ms: int) -> None:
        self.level = 0 if limit is None else max(0, self.level - (now_ms - self.at_ms) * limit)
        self.at_ms = now_ms

    def takes(self, units: int, now_ms: int) -> bool:
        self.bring(now_ms)
        limit = self.now(now_ms)
        if limit is not None and self.level + units * MINUTE_MS > limit * MINUTE_MS:
            return False
        self.level += 0 if limit is None else units * MINUTE_MS
        return True


@given(
    name=st.sampled_from(["rpm", "tpm", "rpm@p/*", "tpm@p/m"]),
    base=st.none() | st.integers(1, 8),
    value=st.none() | st.integers(0, 20),
    seconds=st.integers(1, 90),
    waits=st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 6)), max_size=12),
    of_key=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rates_and_what_holds_instead_let_through_what_a_plain_model_does_and_who_waits_as_told_is_served(
    place: Place,
    name: str,
    base: int | None,
    value: int | None,
    seconds: int,
    waits: list[tuple[int, int]],
    of_key: bool,
) -> None:
    async def play() -> None:
        async with place.bench() as bench:
            key = await new_key(bench, {} if base is None else {name: base}, of_key)
            override = Override(value, START_MS + seconds * 1000)
            await bench.override(key, of_key, overrides={name: override})
            bucket = Bucket(base, override, START_MS)
            for wait_ms, units in ((ms, 1 if name.startswith("rpm") else units) for ms, units in waits):
                await bench.at(bench.now_ms + wait_ms)
                refused = await bench.refusal(key, tokens=units)
                assert (refused is None) is bucket.takes(units, bench.now_ms)
                if refused is not None and refused.wait_ms:
                    await bench.at(bench.now_ms + refused.wait_ms - 1)
                    assert not bucket.takes(units, bench.now_ms)
                    assert await bench.refusal(key, tokens=units) is not None
                    await bench.at(bench.now_ms + 1)
                    assert bucket.takes(units, bench.now_ms)
                    assert await bench.refusal(key, tokens=units) is None

    asyncio.run(play())


@given(
    name=st.sampled_from([*BUDGETS, "budget_tokens_24h@p/*", "budget_usd_month"]),
    base=st.none() | st.integers(1, 40),
    value=st.none() | st.integers(0, 40),
    minutes=st.integers(1, 20_000),
    asked=st.lists(st.tuples(st.integers(0, 4_000), st.integers(1, 30)), max_size=8),
    timezone=st.sampled_from(["", "Asia/Kolkata"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_who_waits_as_a_budget_says_that_changes_meanwhile_is_served_and_not_earlier(
    place: Place,
    name: str,
    base: int | None,
    value: int | None,
    minutes: int,
    asked: list[tuple[int, int]],
    timezone: str,
) -> None:
    async def play() -> None:
        async with place.bench() as bench:
            key = await new_key(bench, {} if base is None else {name: base}, of_key=False)
            until_ms = START_MS + minutes * MINUTE_MS
            await bench.override(key, False, overrides={name: Override(value, until_ms)}, timezone=timezone)
            for wait_minutes, units in asked:
                await bench.at(bench.now_ms + wait_minutes * MINUTE_MS)
                refused = await bench.refusal(key, units, units)
                if refused is not None and refused.wait_ms is not None:
                    await bench.at(bench.now_ms + refused.wait_ms - 1)
                    assert await bench.refusal(key, units, units) is not None
                    await bench.at(bench.now_ms + 1)
                    assert await bench.refusal(key, units, units) is None
                elif refused is not None:
                    read = read_limit_name(name)
                    never = base is not None and (units > base or (read is not None and read.period == "total"))
                    assert never, "waiting helps in the end"

    asyncio.run(play())
