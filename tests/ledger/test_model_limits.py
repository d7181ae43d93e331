"""Limits of some models alone, of teams and keys: what counts, who is refused, and that nobody passes them by one."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.accounts.entities import Changes
from gateway.accounts.limit_names import read_limit_name
from gateway.accounts.serialization import limits_json
from gateway.billing.hold import FREE
from gateway.billing.settlement import Hold
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger import hold_expiry
from gateway.ledger.admissions import AdmissionRefused, AdmissionRequest
from gateway.ledger.refusals import Demand
from gateway.ledger.verification import verify
from gateway.routing.model_patterns import specificity
from gateway.store.keyspace import TeamKeys
from tests.support.effort import effort
from tests.support.ledgers import LedgerParts, open_ledger, settled, voided
from tests.support.servers import Server

MODELS: Final = ("a/one", "a/two", "b/one", "plain")
PATTERNS: Final = ("a/one", "A/*", "b/*", "*", "plain")
WHATS: Final = (
    "concurrency",
    "budget_usd_total",
    "budget_tokens_total",
    "budget_usd_week",
    "budget_usd_7d",
    "rpm",
    "tpm",
)


@pytest.fixture
async def parts(store: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(store.url, tmp_path) as parts:
        yield parts


def ask(key: ApiKey, model: str, amount: int = 10, tokens: int = 2, limited: tuple[str, ...] = ()) -> AdmissionRequest:
    demand = Demand(model, amount, tokens // 2, tokens - tokens // 2, FREE)
    return AdmissionRequest(f"req_{os.urandom(8).hex()}", key, specificity(model), demand, None, limited=limited)


async def refused(parts: LedgerParts, request: AdmissionRequest) -> AdmissionRefused:
    with pytest.raises(AdmissionRefused) as found:
        await parts.ledger.admit(request)
    return found.value


@pytest.mark.parametrize("scope", ["team", "key"])
@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("rpm@a/*", 2, "rate_limit_exceeded"),
        ("tpm@a/*", 5, "rate_limit_exceeded"),
        ("concurrency@a/*", 2, "concurrency_exceeded"),
        ("budget_usd_day@a/*", 25, "insufficient_quota"),
        ("budget_usd_7d@a/*", 25, "insufficient_quota"),
        ("budget_tokens_total@a/*", 5, "insufficient_quota"),
    ],
)
async def test_a_limit_of_some_models_counts_these_together_and_no_other(
    parts: LedgerParts, scope: str, name: str, value: int, code: str
) -> None:
    key = await parts.new_key(limits={name: value} if scope == "team" else {})
    key = await parts.another_key(key.team_id, {name: value} if scope == "key" else {})
    other = await parts.another_key(key.team_id)
    for model in ("a/one", "a/two", "b/one", "plain"):
        await parts.ledger.admit(ask(key, model))
    error = await refused(parts, ask(key, "a/three"))
    assert error.code == code
    assert (error.explain["limit"], error.explain["scope"]) == (name.partition("@")[0], scope)
    assert (error.explain["model_pattern"], error.explain["limit_value"]) == (
        "a/*",
        value if "usd" not in name else "0.000000025",
    )
    assert "for a/*" in error.message
    await parts.ledger.admit(ask(key, "b/two"))
    if scope == "key":
        await parts.ledger.admit(ask(other, "a/one"))
    else:
        await refused(parts, ask(other, "a/one"))


async def test_rates_that_are_told_are_those_of_the_narrowest_limit(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"rpm": 100, "rpm@a/*": 10, "rpm@a/one": 50})
    rates = (await parts.ledger.admit(ask(key, "a/one"))).rates
    assert (rates.requests_limit, rates.requests_left) == (10, 9)
    rates = (await parts.ledger.admit(ask(key, "b/one"))).rates
    assert (rates.requests_limit, rates.requests_left) == (100, 98)


async def test_settling_gives_back_what_the_models_limits_held(parts: LedgerParts) -> None:
    limits = {"concurrency@a/*": 1, "budget_usd_day@a/one": 30, "tpm@a/*": 1000}
    key = await parts.new_key(limits=limits)
    hold = (await parts.ledger.admit(ask(key, "a/one", amount=30, tokens=500))).hold
    assert await _used(parts, key) == {"concurrency@a/*": 1, "budget_usd_day@a/one": 30, "tpm@a/*": 500}
    await parts.ledger.settle(settled(hold, cost=12, tokens=100))
    assert await _used(parts, key) == {"concurrency@a/*": 0, "budget_usd_day@a/one": 12, "tpm@a/*": 100}
    hold = (await parts.ledger.admit(ask(key, "a/one", amount=18, tokens=500))).hold
    await parts.ledger.settle(voided(hold))
    assert (await _used(parts, key))["budget_usd_day@a/one"] == 12
    hold = (await parts.ledger.admit(ask(key, "a/two", amount=50))).hold
    await parts.expire(key, hold.id)
    assert (await _used(parts, key))["concurrency@a/*"] == 0
    assert await hold_expiry.restore(parts.store, [hold], "60000") == 1
    assert (await _used(parts, key))["concurrency@a/*"] == 1
    assert (await verify(parts.store, key.team_id)).differences == ()


async def _used(parts: LedgerParts, key: ApiKey) -> dict[str, int]:
    view = await parts.accounts.view(await parts.accounts.team(key.team_id))
    return {rule.name: rule.used for rule in view.team_rules}


async def test_of_several_models_that_may_answer_each_ones_limits_count(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"concurrency@b/*": 1})
    both = (*specificity("a/one"), *specificity("b/one"))
    await parts.ledger.admit(ask(key, "a/one", limited=both))
    assert (await refused(parts, ask(key, "b/one"))).explain["model_pattern"] == "b/*"
    assert (await refused(parts, ask(key, "a/one", limited=both))).explain["model_pattern"] == "b/*"
    await parts.ledger.admit(ask(key, "a/one"))


async def test_a_limit_that_is_set_again_counts_anew_and_is_not_counted_down_by_those_of_before(
    parts: LedgerParts,
) -> None:
    key = await parts.new_key(limits={"concurrency@a/*": 5})
    team = await parts.accounts.team(key.team_id)
    before = [(await parts.ledger.admit(ask(key, "a/one"))).hold for _ in range(3)]
    await parts.accounts.update_team(team, Changes(limits={"concurrency@a/*": None}))
    await parts.ledger.admit(ask(key, "a/one"))
    await parts.accounts.update_team(team, Changes(limits={"concurrency@a/*": 2}))
    for _ in range(2):
        await parts.ledger.admit(ask(key, "a/one"))
    for hold in before:
        await parts.ledger.settle(settled(hold, cost=1))
    await refused(parts, ask(key, "a/one"))
    assert (await verify(parts.store, key.team_id)).differences == ()


async def test_a_counter_of_slots_that_differs_from_the_holds_is_found(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"concurrency@a/*": 5})
    await parts.ledger.admit(ask(key, "a/one"))
    held = TeamKeys(key.team_id).held
    [name, text] = await parts.store.run("HGETALL", held)
    await parts.store.run("HSET", held, name.decode(), text.decode().rpartition(" ")[0])
    (found,) = (await verify(parts.store, key.team_id)).differences
    assert found.name.startswith("slots::")
    assert (found.expected, found.found) == (0, 1)


@pytest.mark.parametrize("scope", ["team", "key"])
async def test_however_many_come_at_once_over_several_workers_nobody_passes_a_models_budget(
    store: Server, tmp_path: Path, scope: str
) -> None:
    limits = {"budget_usd_day@a/*": 1000, "budget_tokens_7d@a/one": 900, "concurrency@a/*": 9}
    async with (
        open_ledger(store.url, tmp_path / "one") as one,
        open_ledger(store.url, tmp_path / "two") as two,
    ):
        key = await one.new_key(limits=limits if scope == "team" else {})
        key = await one.another_key(key.team_id, limits if scope == "key" else {})
        results: Counter[str] = Counter()
        spent: Counter[str] = Counter()

        async def one_after_another(parts: LedgerParts, number: int) -> None:
            for at in range(12):
                amount, tokens, model = (
                    7 + (number * at) % 40,
                    2 + (number + at) % 60,
                    f"a/{'one' if at % 2 else 'two'}",
                )
                try:
                    hold = (await parts.ledger.admit(ask(key, model, amount, tokens))).hold
                except GatewayError as error:
                    results[str(error.explain["limit"])] += 1
                    continue
                cost, used = amount - number % 5, max(0, tokens - at % 3)
                spent["usd"] += cost
                spent["tokens"] += used if model == "a/one" else 0
                results["admitted"] += 1
                await asyncio.sleep(0)
                await parts.ledger.settle(settled(hold, cost, used))

        await asyncio.gather(*(one_after_another((one, two)[n % 2], n) for n in range(24)))
        assert results["admitted"] > 20
        assert {"budget_usd_day", "budget_tokens_7d", "concurrency"} & results.keys()
        assert spent["usd"] <= 1000
        assert spent["tokens"] <= 900
        view = await one.accounts.view(await one.accounts.team(key.team_id), key.key_id)
        rules = {rule.name: rule.used for rule in (view.team_rules if scope == "team" else view.key_rules)}
        assert rules == {
            "budget_usd_day@a/*": spent["usd"],
            "budget_tokens_7d@a/one": spent["tokens"],
            "concurrency@a/*": 0,
        }
        assert (await verify(one.store, key.team_id)).differences == ()


@dataclass
class Model:
    """What limits of patterns must count. `open`: holds that run, with their model."""

    limits: Mapping[str, int]
    open: dict[str, tuple[Hold, str]] = field(default_factory=dict)
    used: Counter[str] = field(default_factory=Counter)

    def applies(self, name: str, model: str) -> bool:
        read = read_limit_name(name)
        return read is not None and (not read.pattern or read.pattern.lower() in specificity(model))

    def over(self, model: str, amount: int, tokens: int) -> set[str]:
        found = set()
        for name, limit in self.limits.items():
            if self.applies(name, model):
                more = 1 if name.startswith("concurrency") else amount if "usd" in name else tokens
                if more and self.used[name] + more > limit:
                    found.add(name)
        return found

    def count(self, model: str, slots: int, amount: int, tokens: int) -> None:
        for name in self.limits:
            if self.applies(name, model):
                self.used[name] += slots if name.startswith("concurrency") else amount if "usd" in name else tokens


COUNTED: Final = tuple(what for what in WHATS if what not in ("rpm", "tpm"))
steps = st.lists(
    st.tuples(
        st.sampled_from(["admit", "admit", "settle", "void", "expire", "restore"]),
        st.sampled_from(MODELS),
        st.integers(0, 40),
        st.integers(0, 40),
    ),
    max_size=25,
)


@given(
    limits=st.dictionaries(
        st.builds("{}@{}".format, st.sampled_from(COUNTED), st.sampled_from(PATTERNS)), st.integers(1, 90), max_size=6
    ),
    of_key=st.booleans(),
    steps=steps,
)
@settings(max_examples=effort(50))
def test_limits_of_patterns_count_what_a_plain_model_counts(
    store: Server, tmp_path: Path, limits: dict[str, int], of_key: bool, steps: list[tuple[str, str, int, int]]
) -> None:
    async def play() -> None:
        async with open_ledger(store.url, tmp_path) as parts:
            key = await parts.new_key(limits={} if of_key else limits)
            if of_key:
                key = await parts.another_key(key.team_id, limits)
            expected = Model(limits)
            gone: list[tuple[Hold, str]] = []
            for step in steps:
                await _play(parts, key, expected, gone, step)
            team = await parts.accounts.team(key.team_id)
            view = await parts.accounts.view(team, key.key_id)
            shown = {rule.name: rule.used for rule in (view.key_rules if of_key else view.team_rules)}
            assert shown == {name: expected.used[name] for name in limits}
            assert set(limits_json(view, "key" if of_key else "team")) == set(limits)
            assert (await verify(parts.store, key.team_id)).differences == ()

    asyncio.run(play())


async def _play(
    parts: LedgerParts, key: ApiKey, expected: Model, gone: list[tuple[Hold, str]], step: tuple[str, str, int, int]
) -> None:
    kind, model, amount, tokens = step
    if kind == "admit":
        over = expected.over(model, amount, tokens)
        request = ask(key, model, amount, tokens)
        if over:
            error = await refused(parts, request)
            assert f"{error.explain['limit']}@{error.explain['model_pattern']}" in over
            return
        expected.open[request.request_id] = (await parts.ledger.admit(request)).hold, model
        expected.count(model, 1, amount, tokens)
    elif kind == "restore" and gone:
        hold, of = gone.pop()
        assert await hold_expiry.restore(parts.store, [hold], "60000") == 1
        expected.open[hold.id] = hold, of
        expected.count(of, 1, hold.amount_nano_usd, hold.input_tokens + hold.output_tokens)
    elif kind in ("settle", "void", "expire") and expected.open:
        _, (hold, of) = expected.open.popitem()
        reserved = hold.input_tokens + hold.output_tokens
        cost, used = (amount, tokens) if kind == "settle" else (0, 0)
        if kind == "settle":
            await parts.ledger.settle(settled(hold, cost, used))
        elif kind == "void":
            await parts.ledger.settle(voided(hold))
        else:
            await parts.expire(key, hold.id)
            gone.append((hold, of))
        expected.count(of, -1, cost - hold.amount_nano_usd, used - reserved)
