"""Conversations: turns append whole and in order, one at a time; nobody reads another team's."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.state import conversations as module
from gateway.state.conversations import Conversations
from gateway.state.items import Item, as_items
from gateway.state.responses import StatePolicy
from gateway.store.keyspace import TeamKeys
from tests.support.ledgers import LedgerParts

LARGE = 1024 * 1024


@pytest.fixture
def kept(ledgers: LedgerParts) -> Conversations:
    return Conversations(ledgers.store, StatePolicy(60, LARGE, LARGE, 100, LARGE))


def texts(items: list[Item]) -> list[str]:
    return [item["content"][0]["text"] for item in items]


async def test_turns_that_append_at_once_never_mix(kept: Conversations) -> None:
    made = await kept.create("team", {}, [])
    turns = [[*as_items(f"{turn} asks"), *as_items(f"{turn} answers")] for turn in range(20)]
    await asyncio.gather(*(kept.append("team", made.id, turn) for turn in turns))
    found = texts(list((await kept.read("team", made.id)).items))
    assert len(found) == 40
    pairs = list(zip(found[::2], found[1::2], strict=True))
    assert all(asked.split()[0] == answered.split()[0] for asked, answered in pairs)


async def test_an_update_of_metadata_writes_no_item_back(kept: Conversations) -> None:
    made = await kept.create("team", {"a": "1"}, as_items("first"))
    before = await kept.read("team", made.id)
    await kept.append("team", made.id, as_items("second"))
    assert (await kept.update("team", made.id, {"b": "2"})).metadata == {"b": "2"}
    after = await kept.read("team", made.id)
    assert (texts(list(after.items)), after.created_at) == (["first", "second"], before.created_at)


async def test_an_item_that_is_taken_out_leaves_the_order_of_the_others(kept: Conversations) -> None:
    made = await kept.create("team", {}, [*as_items("one"), *as_items("two"), *as_items("three")])
    two = (await kept.read("team", made.id)).items[1]
    assert await kept.remove("team", made.id, two["id"])
    assert not await kept.remove("team", made.id, two["id"])
    await kept.append("team", made.id, as_items("four"))
    assert texts(list((await kept.read("team", made.id)).items)) == ["one", "three", "four"]


async def test_another_team_an_unknown_one_and_a_deleted_one_read_the_same(kept: Conversations) -> None:
    made = await kept.create("team", {}, [])
    gone = await kept.create("team", {}, [])
    await kept.delete("team", gone.id)
    for team, identifier in [("other", made.id), ("team", gone.id), ("team", "conv_unknown"), ("team", "no id")]:
        with pytest.raises(GatewayError) as refused:
            await kept.read(team, identifier)
        assert (refused.value.status, refused.value.param) == (404, "conversation")
        assert refused.value.message == f"There is no conversation {identifier!r} here."


async def test_a_deleted_conversation_does_not_come_back_by_a_late_append(kept: Conversations) -> None:
    made = await kept.create("team", {}, [])
    await kept.delete("team", made.id)
    with pytest.raises(GatewayError):
        await kept.append("team", made.id, as_items("late"))
    with pytest.raises(GatewayError):
        await kept.read("team", made.id)


async def test_a_second_turn_waits_for_the_first_and_gives_up_by_name(
    kept: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await kept.create("team", {}, [])
    await kept.lock("team", made.id, "first", 60)
    waiting = asyncio.create_task(kept.lock("team", made.id, "second", 60))
    await kept.unlock("team", made.id, "not-the-first")
    await kept.unlock("team", made.id, "first")
    await waiting
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0.1)
    with pytest.raises(GatewayError) as refused:
        await kept.lock("team", made.id, "third", 60)
    assert (refused.value.code, refused.value.param) == ("conversation_locked", "conversation")


async def test_a_turn_that_appends_ends_its_lock(kept: Conversations) -> None:
    made = await kept.create("team", {}, [])
    await kept.lock("team", made.id, "first", 60)
    await kept.append("team", made.id, as_items("x"), "first")
    await kept.lock("team", made.id, "second", 60)


async def test_a_conversation_is_bounded_and_has_a_life(ledgers: LedgerParts) -> None:
    kept = Conversations(ledgers.store, StatePolicy(60, 500, LARGE, 100, LARGE))
    made = await kept.create("team", {}, [])
    await kept.append("team", made.id, as_items("fits"))
    with pytest.raises(GatewayError) as refused:
        await kept.append("team", made.id, [*as_items("a"), *as_items("b"), *as_items("c"), *as_items("d")])
    assert refused.value.param == "conversation"
    assert 0 < await ledgers.store.run("PTTL", TeamKeys("team").conversation(made.id)) <= 60_000


async def test_the_number_of_its_items_is_bounded(ledgers: LedgerParts) -> None:
    kept = Conversations(ledgers.store, StatePolicy(60, 16 * LARGE, 16 * LARGE, 100, 16 * LARGE))
    made = await kept.create("team", {}, [])
    for _ in range(9):
        await kept.append("team", made.id, as_items("x") * 1000)
    await kept.append("team", made.id, as_items("x") * 900)
    with pytest.raises(GatewayError) as refused:
        await kept.append("team", made.id, as_items("x") * 101)
    assert (refused.value.code, refused.value.param) == ("invalid_item", "conversation")
    await kept.append("team", made.id, as_items("x") * 90)
    assert len((await kept.read("team", made.id)).items) == 9_990


async def test_reading_renews_the_life_and_brings_nothing_back(ledgers: LedgerParts, kept: Conversations) -> None:
    made = await kept.create("team", {}, as_items("x"))
    name = TeamKeys("team").conversation(made.id)
    await ledgers.store.run("PEXPIRE", name, "10000")
    await kept.read("team", made.id)
    assert await ledgers.store.run("PTTL", name) > 50_000
    await kept.delete("team", made.id)
    with pytest.raises(GatewayError):
        await kept.read("team", made.id)
    assert not await ledgers.store.run("EXISTS", name)


async def test_items_that_share_an_id_or_have_none_that_is_usable_get_ids_of_their_own(kept: Conversations) -> None:
    first, second = as_items("a")[0], as_items("b")[0]
    made = await kept.create("team", {}, [{**first, "id": "x"}, {**second, "id": "x"}, {**second, "id": "x y"}])
    ids = [item["id"] for item in (await kept.read("team", made.id)).items]
    assert ids[0] == "x"
    assert all(identifier.startswith("msg_") for identifier in ids[1:])


ADDED = st.lists(st.sampled_from(["m", "n", None]) | st.integers(0, 9), min_size=1, max_size=3)
"""The ids of items that are added in one call: a text, none, or that of an item that is listed already."""


@settings(max_examples=25)
@given(st.lists(ADDED | st.integers(0, 9), max_size=8))
async def test_whatever_is_added_and_removed_each_item_is_listed_under_an_id_of_its_own_for_good(
    kept: Conversations, steps: list[list[str | int | None] | int]
) -> None:
    made = await kept.create("team", {}, [])
    expected: dict[str, str] = {}
    count = 0
    for step in steps:
        ids = list(expected)
        if isinstance(step, int):
            if ids:
                gone = ids[step % len(ids)]
                assert await kept.remove("team", made.id, gone)
                del expected[gone]
        else:
            items = []
            for wanted in step:
                count += 1
                named = (ids[wanted % len(ids)] if ids else "m") if isinstance(wanted, int) else wanted
                items += [{**as_items(f"text {count}")[0], **({"id": named} if named else {})}]
            added = await kept.add("team", made.id, items)
            assert texts(added) == texts(items)
            assert not {item["id"] for item in added} & set(expected)
            expected |= dict(zip([item["id"] for item in added], texts(items), strict=True))
        found = (await kept.read("team", made.id)).listed()
        assert dict(zip([item["id"] for item in found], texts(list(found)), strict=True)) == expected
        assert len(found) == len(expected)
