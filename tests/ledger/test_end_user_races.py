"""Limits of each end user over two workers, in any order: nobody passes them, and nobody else is counted."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.accounts.limit_names import END_USER
from gateway.billing.settlement import Hold
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger import hold_expiry
from gateway.ledger.verification import verify
from gateway.protocol.attribution import NOBODY
from tests.support.end_users import ANA, BOB, EVE, ask, entries, refused
from tests.support.ledgers import LedgerParts, open_ledger, settled, voided
from tests.support.servers import Server


async def test_however_many_come_at_once_over_two_workers_no_end_user_passes_its_limits(
    store: Server, tmp_path: Path
) -> None:
    limits = {
        "end_user.budget_usd_day": 300,
        "end_user.budget_tokens_7d@a/one": 200,
        "end_user.concurrency": 2,
    }
    async with (
        open_ledger(store.url, tmp_path / "one") as one,
        open_ledger(store.url, tmp_path / "two") as two,
    ):
        key = await one.new_key(limits=limits)
        keys = [key, await one.another_key(key.team_id)]
        results: Counter[str] = Counter()
        spent: defaultdict[str, Counter[str]] = defaultdict(Counter)
        running: Counter[str] = Counter()

        async def one_after_another(parts: LedgerParts, number: int) -> None:
            user = (BOB, EVE, ANA)[number % 3]
            for at in range(12):
                amount, tokens, model = 7 + (number * at) % 40, 2 + (number + at) % 60, f"a/{('one', 'two')[at % 2]}"
                try:
                    hold = (await parts.ledger.admit(ask(keys[at % 2], user, amount, tokens, model))).hold
                except GatewayError as error:
                    results[f"{error.explain['scope']} {error.explain['limit']}"] += 1
                    continue
                running[user] += 1
                assert running[user] <= 2
                cost, used = amount - number % 5, max(0, tokens - at % 3)
                spent[user]["usd"] += cost
                spent[user]["tokens"] += used if model == "a/one" else 0
                results["admitted"] += 1
                await asyncio.sleep(0)
                running[user] -= 1
                await parts.ledger.settle(settled(hold, cost, used))

        await asyncio.gather(*(one_after_another((one, two)[n % 2], n) for n in range(24)))
        assert results["admitted"] > 20
        assert {f"end_user {limit}" for limit in ("budget_usd_day", "concurrency")} <= results.keys()
        for user, (_, open_now, meters) in (await entries(one, key)).items():
            assert open_now == 0
            assert spent[user]["usd"] <= 300
            assert spent[user]["tokens"] <= 200
            counted = {meter[0]: meter for meter in meters.values() if isinstance(meter, list)}
            assert counted[4][1] == spent[user]["usd"]
            assert sum(counted[7][3:]) == spent[user]["tokens"]
            assert counted[3][1] == 0
        assert (await verify(one.store, key.team_id)).differences == ()


@dataclass
class Model:
    """What limits of each end user must count, of one scope. `open`: holds that run, with their end user."""

    limits: Mapping[str, int]
    open: dict[str, tuple[Hold, str]] = field(default_factory=dict)
    used: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def over(self, user: str, amount: int, tokens: int) -> set[str]:
        more = {"concurrency": 1, "budget_usd_week": amount, "budget_tokens_7d": tokens}
        return {
            name for name, limit in self.limits.items() if more[name] and self.used[user][name] + more[name] > limit
        }

    def count(self, user: str, slots: int, amount: int, tokens: int) -> None:
        for name, by in (("concurrency", slots), ("budget_usd_week", amount), ("budget_tokens_7d", tokens)):
            self.used[user][name] += by


KINDS: Final = {"concurrency": 3, "budget_usd_week": 4, "budget_tokens_7d": 7}
STEPS: Final = st.lists(
    st.tuples(
        st.sampled_from(["admit", "admit", "settle", "void", "expire", "restore"]),
        st.sampled_from([BOB, EVE, NOBODY]),
        st.integers(0, 1),
        st.integers(0, 40),
        st.integers(0, 40),
    ),
    max_size=25,
)


@given(
    limits=st.dictionaries(st.sampled_from(sorted(KINDS)), st.integers(1, 90), min_size=1),
    of_key=st.booleans(),
    steps=STEPS,
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_over_two_workers_end_users_are_counted_as_a_plain_model_counts(
    store: Server, tmp_path: Path, limits: dict[str, int], of_key: bool, steps: list[tuple[str, str, int, int, int]]
) -> None:
    async def play() -> None:
        async with open_ledger(store.url, tmp_path / "0") as one, open_ledger(store.url, tmp_path / "1") as two:
            named = {END_USER + name: value for name, value in limits.items()}
            key = await one.new_key(limits={} if of_key else named)
            key = await one.another_key(key.team_id, named if of_key else {})
            expected, gone = Model(limits), list[tuple[Hold, str]]()
            for kind, user, worker, amount, tokens in steps:
                await _play((one, two)[worker], key, expected, gone, (kind, user, amount, tokens))
            prefix = f"{key.key_id}:" if of_key else ""
            found = await entries(one, key)
            for user, used in expected.used.items():
                _, open_now, meters = found.get(prefix + user, (0, 0, {}))
                counted = {meter[0]: meter for meter in meters.values() if isinstance(meter, list)}
                assert open_now == sum(of == user for _, of in expected.open.values())
                for name in limits:
                    meter = counted.get(KINDS[name], [0, 0, 0, 0])
                    assert (sum(meter[3:]) if name.endswith("7d") else meter[1]) == used[name]
            assert (await verify(one.store, key.team_id)).differences == ()

    asyncio.run(play())


async def _play(
    parts: LedgerParts, key: ApiKey, expected: Model, gone: list[tuple[Hold, str]], step: tuple[str, str, int, int]
) -> None:
    kind, user, amount, tokens = step
    if kind == "admit":
        request = ask(key, user, amount, tokens)
        if over := expected.over(user, amount, tokens):
            error = await refused(parts, request)
            assert error.explain["limit"] in over
            return
        expected.open[request.request_id] = (await parts.ledger.admit(request)).hold, user
        expected.count(user, 1, amount, tokens)
    elif kind == "restore" and gone:
        hold, of = gone.pop()
        assert await hold_expiry.restore(parts.store, [hold], "60000") == 1
        expected.open[hold.id] = hold, of
        expected.count(of, 1, hold.amount_nano_usd, hold.input_tokens + hold.output_tokens)
    elif kind in ("settle", "void", "expire") and expected.open:
        _, (hold, of) = expected.open.popitem()
        cost, used = (amount, tokens) if kind == "settle" else (0, 0)
        if kind == "settle":
            await parts.ledger.settle(settled(hold, cost, used))
        elif kind == "void":
            await parts.ledger.settle(voided(hold))
        else:
            await parts.expire(key, hold.id)
            gone.append((hold, of))
        expected.count(of, -1, cost - hold.amount_nano_usd, used - hold.input_tokens - hold.output_tokens)
