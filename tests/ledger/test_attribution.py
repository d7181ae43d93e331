"""Usage by tag and end user, as settlement counts it: exact, once, and bounded."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.billing.settlement import Hold
from gateway.identity.api_keys import ApiKey
from gateway.ledger.settlement_call import SETTLE, Resolution, SettlementCalls
from gateway.protocol.attribution import DEFAULT, BodyLabels, tags_of
from gateway.reporting.attributed_usage import NONE, OTHER, by_value, tag_names
from gateway.store.keyspace import STEP_MS, TeamKeys
from tests.support.ledgers import LedgerParts, ask, open_ledger, policy, settled, voided
from tests.support.servers import Server

SMALL = DEFAULT._replace(bounds="3 2 86400000")


def lines(tags: dict[str, str], user: str = "", policy: object = SMALL) -> str:
    return tags_of(None, BodyLabels(tuple(tags.items()), user), SMALL if policy is SMALL else DEFAULT)


async def spend(parts: LedgerParts, key: ApiKey, tags: str, cost: int) -> int:
    """One request; the time at which it was admitted."""
    hold = (await parts.ledger.admit(ask(key, tags=tags))).hold
    await parts.ledger.settle(settled(hold, cost=cost))
    return hold.admitted_ms


async def only(team_id: str) -> AsyncIterator[str]:
    yield team_id


async def costs(parts: LedgerParts, key: ApiKey, name: str, at_ms: int) -> dict[str, tuple[int, int]]:
    """Requests and cost by value."""
    day_ms = at_ms // STEP_MS["day"] * STEP_MS["day"]
    return {
        row.value: (row.requests, row.cost) async for row in by_value(parts.store, only(key.team_id), [day_ms], name)
    }


async def test_each_value_has_what_its_requests_cost_and_the_rest_is_named(store: Server, tmp_path: Path) -> None:
    async with open_ledger(store.url, tmp_path) as parts:
        key = await parts.new_key()
        at_ms = await spend(parts, key, lines({"project": "alpha"}, "bob"), 5)
        await spend(parts, key, lines({"project": "alpha"}, "eve"), 7)
        await spend(parts, key, lines({"project": "beta=x"}), 1)
        await spend(parts, key, "", 2)
        assert await costs(parts, key, "t:project", at_ms) == {"alpha": (2, 12), "beta=x": (1, 1), NONE: (1, 2)}
        assert await costs(parts, key, "u", at_ms) == {"bob": (1, 5), "eve": (1, 7), NONE: (2, 3)}
        assert await costs(parts, key, "t:other", at_ms) == {NONE: (4, 15)}


async def test_too_many_values_and_too_many_names_are_counted_together(store: Server, tmp_path: Path) -> None:
    async with open_ledger(store.url, tmp_path) as parts:
        key, at_ms = await parts.new_key(), 0
        for number in range(10):
            at_ms = await spend(parts, key, lines({"request": f"r{number}"}), 1)
        await spend(parts, key, lines({"request": "r0"}), 1)
        assert await costs(parts, key, "t:request", at_ms) == {"r0": (2, 2), "r1": (1, 1), "r2": (1, 1), OTHER: (7, 7)}
        for number in range(10):
            await spend(parts, key, lines({f"name{number}": "x", f"more{number}": "y"}), 1)
        day_ms = at_ms // STEP_MS["day"] * STEP_MS["day"]
        found = await tag_names(parts.store, only(key.team_id), [day_ms])
        assert {name: (use.values, use.sums[0]) for name, use in found.items()} == {
            "request": (4, 11),
            "name0": (1, 1),
            OTHER: (1, 10),  # a request with two of them is one request
        }
        await spend(parts, key, lines({"late": "x"}, "bob"), 1)
        assert (await costs(parts, key, "u", at_ms))["bob"] == (1, 1), "an end user takes no tag's place"


async def test_a_correction_that_comes_later_leaves_the_sum_right(store: Server, tmp_path: Path) -> None:
    """One whose tags nobody knows is among the requests without one, if it must be below zero."""
    async with open_ledger(store.url, tmp_path) as parts:
        key = await parts.new_key()
        at_ms = await spend(parts, key, lines({"project": "alpha"}), 10)
        less = settled(Hold("usage_1", key.team_id, key.key_id, 0, 0, 0, at_ms), cost=-4)
        await parts.ledger.settle(less)
        assert await costs(parts, key, "t:project", at_ms) == {"alpha": (1, 10), NONE: (0, -4)}


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12345"), max_size=3),
            st.sampled_from(["", "u1", "u2", "u3", "u4", "u5"]),
            st.integers(0, 9),
        ),
        max_size=25,
    )
)
async def test_of_any_requests_each_name_adds_up_to_what_was_spent(
    store: Server, tmp_path: Path, requests: list[tuple[dict[str, str], str, int]]
) -> None:
    async with open_ledger(store.url, tmp_path) as parts:
        key, at_ms = await parts.new_key(), 0
        model: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for tags, user, cost in requests:
            at_ms = await spend(parts, key, lines(tags, user), cost)
            for name, value in ({f"t:{name}": value for name, value in tags.items()} | {"u": user or NONE}).items():
                model[name][value] += cost
        total = sum(cost for *_, cost in requests)
        for name in ("t:a", "t:b", "t:c", "t:d", "u"):
            found = await costs(parts, key, name, at_ms)
            assert sum(cost for _, cost in found.values()) == total
            assert sum(count for count, _ in found.values()) == len(requests)
            assert len(found) <= 3 + 2, "three values, the others, and the requests without"
            for value, (_, cost) in found.items():
                if value not in (NONE, OTHER):
                    assert cost == model[name][value]
        stored = await parts.store.run("HLEN", TeamKeys(key.team_id).attributed(at_ms))
        assert stored <= 3 * (3 + 2) + 2, "two tags and the end user: values, the others, and their number"


async def test_a_settlement_that_is_repeated_or_voided_counts_once_or_not_at_all(store: Server, tmp_path: Path) -> None:
    async with open_ledger(store.url, tmp_path) as parts:
        key = await parts.new_key()
        tags = lines({"project": "alpha"})
        hold = (await parts.ledger.admit(ask(key, tags=tags))).hold
        settlement = settled(hold, cost=5)
        await parts.ledger.settle(settlement)
        parts.spool.add(SETTLE.name, *SettlementCalls(policy()).call(settlement))
        await parts.ledger.flush()
        assert parts.ledger.resolutions == {Resolution.APPLIED: 1, Resolution.REPLAYED: 1}
        await parts.ledger.settle(voided((await parts.ledger.admit(ask(key, tags=tags))).hold))
        assert await costs(parts, key, "t:project", hold.admitted_ms) == {"alpha": (1, 5)}


@pytest.mark.parametrize("with_mark", [False, True])
async def test_tags_an_idempotency_key_and_a_response_keep_their_places(
    store: Server, tmp_path: Path, with_mark: bool
) -> None:
    """The keys of a settlement that may be absent stand behind one another."""
    async with open_ledger(store.url, tmp_path) as parts:
        key = await parts.new_key()
        names, at_ms = TeamKeys(key.team_id), 0
        for tags in ("", lines({"project": "alpha"})):
            asked = ask(key, tags=tags, idempotency_key=f"mark {tags}" if with_mark else None)
            hold = (await parts.ledger.admit(asked)).hold
            at_ms = hold.admitted_ms
            keys, args = SettlementCalls(policy()).call(settled(hold, cost=5))
            response = names.response(f"resp_{len(tags)}")
            await parts.store.call(SETTLE, [*keys, response], [*args, "made", "60000"])
            assert await parts.store.run("GET", response) == b"made"
            if with_mark:
                mark = names.idempotency_key(key.key_id, f"mark {tags}")
                assert await parts.store.run("GET", mark) == f"{hold.id} settled".encode()
        assert await costs(parts, key, "t:project", at_ms) == {"alpha": (1, 5), NONE: (1, 5)}


async def test_a_day_is_kept_as_long_as_the_policy_says(store: Server, tmp_path: Path) -> None:
    async with open_ledger(store.url, tmp_path) as parts:
        key = await parts.new_key()
        at_ms = await spend(parts, key, lines({"project": "alpha"}), 5)
        await spend(parts, key, lines({"project": "beta"}), 5)
        left_ms = await parts.store.run("PTTL", TeamKeys(key.team_id).attributed(at_ms))
        assert 86_000_000 < left_ms <= 86_400_000
