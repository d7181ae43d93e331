"""Stored responses: chains are read whole or refused by name, bounds hold, nobody reads another team's."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.state.records import StoredResponse, pack, unpack
from gateway.state.responses import PutResult, ResponseStore, StatePolicy
from gateway.store.keyspace import TeamKeys
from tests.support.ledgers import LedgerParts

LARGE = 1024 * 1024 * 1024


def policy(**changes: int) -> StatePolicy:
    bounds = {"ttl_s": 60, "max_response_bytes": LARGE, "max_team_bytes": LARGE, "max_depth": 100}
    return StatePolicy(**{**bounds, "max_resolved_bytes": LARGE, **changes})


def turn(identifier: str, parent: str | None = None, text: str = "", **fields: Any) -> StoredResponse:
    made = {"type": "message", "id": f"msg_{identifier}", "role": "assistant", "content": text or identifier}
    response = {"id": identifier, "object": "response", "status": "completed", "output": [made], **fields}
    return StoredResponse(response, [{"role": "user", "content": f"ask {identifier}"}], parent, "key")


async def store(responses: ResponseStore, key: ApiKey, *records: StoredResponse) -> None:
    for record in records:
        assert await responses.put(key.team_id, record, running=False, reserved=False) is PutResult.STORED


async def ids(responses: ResponseStore, key: ApiKey, identifier: str) -> list[str]:
    return [record.response_id for record in await responses.chain(key, identifier)]


async def refusal(responses: ResponseStore, key: ApiKey, identifier: str) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        await responses.chain(key, identifier)
    return refused.value


async def test_a_chain_comes_back_oldest_first_and_a_fork_sees_its_own_past(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy()), await ledgers.new_key()
    await store(responses, key, turn("a"), turn("b", "a"), turn("c", "b"), turn("d", "a"))
    assert await ids(responses, key, "c") == ["a", "b", "c"]
    assert await ids(responses, key, "d") == ["a", "d"]


async def test_a_long_chain_is_read_whole(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy()), await ledgers.new_key()
    names = [f"r{number}" for number in range(60)]
    await store(responses, key, *(turn(name, before) for before, name in zip([None, *names], names, strict=False)))
    assert await ids(responses, key, "r59") == names


async def test_a_chain_through_a_deleted_turn_is_refused_and_names_it(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy()), await ledgers.new_key()
    await store(responses, key, turn("a"), turn("b", "a"), turn("c", "b"))
    assert await responses.delete(key.team_id, "b")
    assert not await responses.delete(key.team_id, "b")
    refused = await refusal(responses, key, "c")
    assert (refused.code, refused.param) == ("previous_response_not_found", "previous_response_id")
    assert "'b'" in refused.message
    assert await responses.get(key, "b") is None
    assert await responses.get(key, "c") is not None


async def test_what_was_deleted_leaves_nothing_once_no_turn_continues_it(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy()), await ledgers.new_key()
    await store(responses, key, turn("a"), turn("b", "a"), turn("c", "b"))
    for name in ("a", "b", "c"):
        assert await responses.delete(key.team_id, name)
    _contents, entries, use, items = TeamKeys(key.team_id).stored_responses
    assert await ledgers.store.run("HGETALL", entries) == [b"*", b"0"]
    assert await ledgers.store.run("ZCARD", use) == 0
    assert await ledgers.store.run("HLEN", items) == 0


async def test_another_team_and_an_unknown_id_read_the_same(ledgers: LedgerParts) -> None:
    responses, key, stranger = ResponseStore(ledgers.store, policy()), await ledgers.new_key(), await ledgers.new_key()
    await store(responses, key, turn("a"))
    theirs, unknown = await refusal(responses, stranger, "a"), await refusal(responses, key, "z")
    assert theirs.message.replace("'a'", "'z'") == unknown.message
    assert await responses.get(stranger, "a") is None
    assert await responses.item(stranger.team_id, "msg_a") is None


async def test_a_key_that_is_not_alive_reads_nothing(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy()), await ledgers.new_key()
    await store(responses, key, turn("a"))
    await ledgers.store.run("HSET", TeamKeys(key.team_id).key(key.key_id), "status", "disabled")
    assert (await refusal(responses, key, "a")).code == "invalid_api_key"
    with pytest.raises(GatewayError):
        await responses.check(key)


@pytest.mark.parametrize("status", ["failed", "cancelled", "queued", "in_progress"])
async def test_only_a_finished_response_can_be_continued(ledgers: LedgerParts, status: str) -> None:
    responses, key = ResponseStore(ledgers.store, policy()), await ledgers.new_key()
    await store(responses, key, turn("a", status=status), turn("b", status="incomplete"))
    assert (await refusal(responses, key, "a")).param == "previous_response_id"
    assert await ids(responses, key, "b") == ["b"]


async def test_an_id_is_taken_once(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy()), await ledgers.new_key()
    puts = [responses.put(key.team_id, turn("a", text=str(n)), running=True, reserved=False) for n in range(20)]
    assert sorted(await asyncio.gather(*puts)) == [PutResult.REFUSED] * 19 + [PutResult.STORED]


async def test_what_was_deleted_while_it_ran_is_not_stored(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy()), await ledgers.new_key()
    assert await responses.put(key.team_id, turn("a"), running=True, reserved=False) is PutResult.STORED
    assert await responses.delete(key.team_id, "a")
    assert await responses.put(key.team_id, turn("a"), running=False, reserved=True) is PutResult.REFUSED
    assert await responses.get(key, "a") is None


async def test_over_the_teams_bytes_whole_chains_go_by_last_use(ledgers: LedgerParts) -> None:
    key = await ledgers.new_key()
    size = len(pack(turn("a1", text="x" * 10), key.team_id))
    responses = ResponseStore(ledgers.store, policy(max_team_bytes=size * 5))
    texts = {"text": "x" * 10}
    await store(responses, key, turn("a1", **texts), turn("a2", "a1", **texts), turn("b1", **texts))
    await asyncio.sleep(0.005)  # the last use is kept in ms by the store: another one must have begun
    assert await ids(responses, key, "a2") == ["a1", "a2"]
    await asyncio.sleep(0.005)  # the same
    await store(responses, key, turn("b2", "b1", **texts), turn("c1", **texts), turn("c2", "c1", **texts))
    alive = {name for name in ("a1", "a2", "b1", "b2", "c1", "c2") if await responses.get(key, name) is not None}
    assert alive == {"b1", "b2", "c1", "c2"}
    _, entries, _, _ = TeamKeys(key.team_id).stored_responses
    assert int(await ledgers.store.run("HGET", entries, "*")) <= size * 5


async def test_reading_a_turn_renews_its_whole_past(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy(ttl_s=1)), await ledgers.new_key()
    await store(responses, key, turn("a"), turn("b", "a"), turn("idle"))
    for _ in range(4):
        await asyncio.sleep(0.4)  # time is what this test is about: longer in all than a life
        assert await ids(responses, key, "b") == ["a", "b"]
    assert (await refusal(responses, key, "idle")).code == "previous_response_not_found"


async def test_a_chain_is_bounded_in_turns_and_bytes(ledgers: LedgerParts) -> None:
    key = await ledgers.new_key()
    await store(ResponseStore(ledgers.store, policy()), key, turn("a"), turn("b", "a"), turn("c", "b"))
    assert "2 turns" in (await refusal(ResponseStore(ledgers.store, policy(max_depth=2)), key, "c")).message
    assert (
        "100 bytes" in (await refusal(ResponseStore(ledgers.store, policy(max_resolved_bytes=100)), key, "c")).message
    )


async def test_what_precedes_a_compaction_may_be_deleted_and_counts_for_no_bound(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy(max_depth=3)), await ledgers.new_key()
    summary = {"type": "compaction", "id": "cmp_c", "encrypted_content": "what was said"}
    await store(responses, key, turn("a"), turn("b", "a"), turn("c", "b", output=[summary]), turn("d", "c"))
    await store(responses, key, turn("e", "d"), turn("idle"))
    assert await ids(responses, key, "e") == ["c", "d", "e"]
    for before in ("a", "b"):
        assert await responses.delete(key.team_id, before)
        assert await ids(responses, key, "e") == ["c", "d", "e"]
    assert (await by_use(responses, key))[0] == ["idle", "e", "d", "c", "b", "a"], (
        "deleted turns are renewed like others"
    )
    assert await responses.delete(key.team_id, "c")
    assert "'c'" in (await refusal(responses, key, "e")).message


async def test_a_response_beyond_the_bound_is_not_kept(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy(max_response_bytes=50)), await ledgers.new_key()
    with pytest.raises(ValueError, match="too large to be stored"):
        await responses.put(key.team_id, turn("a"), running=False, reserved=False)


async def test_an_item_is_found_by_its_id_in_the_latest_response_that_has_it(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy()), await ledgers.new_key()
    first, second = turn("a", text="first"), turn("b", text="second")
    second.output[0]["id"] = "msg_a"
    await store(responses, key, first, second)
    found = await responses.item(key.team_id, "msg_a")
    assert found is not None
    assert found["content"] == "second"


async def test_every_key_of_stored_responses_has_a_life(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy()), await ledgers.new_key()
    await store(responses, key, turn("a"))
    for name in TeamKeys(key.team_id).stored_responses:
        assert 0 < await ledgers.store.run("PTTL", name) <= 60_000


def test_a_record_survives_packing_with_half_an_emoji_and_a_large_number() -> None:
    record = turn("a", text="\ud83d", metadata={"n": 2**70})
    assert unpack(pack(record, "team"), "team") == record


async def long_chain(responses: ResponseStore, key: ApiKey, turns: int) -> str:
    """Puts a chain into the store, as if its turns had been stored half a minute ago. Returns its last id."""
    contents, entries, use, _ = TeamKeys(key.team_id).stored_responses
    then_ms, names = int(time.time() * 1000) - 30_000, [f"r{number}" for number in range(turns)]
    for start in range(0, turns, 1000):
        some = list(enumerate(names))[start : start + 1000]
        packed = {name: pack(turn(name, f"r{at - 1}" if at else None), key.team_id) for at, name in some}
        parents = {name: f"{f'r{at - 1}' if at else ''}|{int(at < turns - 1)}|1|s|" for at, name in some}
        scores = [(str(then_ms * 1000 + turns - at), name) for at, name in some]
        run = responses.store.run
        await asyncio.gather(
            run("HSET", contents, *(part for pair in packed.items() for part in pair)),
            run("HSET", entries, *(part for pair in parents.items() for part in pair)),
            run("ZADD", use, *(part for pair in scores for part in pair)),
            run("HINCRBY", entries, "*", str(len(some))),
        )
    return names[-1]


async def by_use(responses: ResponseStore, key: ApiKey) -> tuple[list[str], int]:
    """Returns all ids, the one that goes first in front, and when that was used, in 1/1000 ms."""
    _, _, use, _ = TeamKeys(key.team_id).stored_responses
    scored = await responses.store.run("ZRANGE", use, "0", "-1", "WITHSCORES")
    return [name.decode() for name in scored[::2]], int(float(scored[1]))


@pytest.mark.parametrize("turns", [999, 1000, 1001, 2001, 9000])
async def test_a_chain_may_have_as_many_turns_as_the_setting_says(ledgers: LedgerParts, turns: int) -> None:
    responses, key = ResponseStore(ledgers.store, policy(max_depth=turns)), await ledgers.new_key()
    last, begun_ms = await long_chain(responses, key, turns), int(time.time() * 1000)
    names = [f"r{number}" for number in range(turns)]
    assert await ids(responses, key, last) == names
    first, used = await by_use(responses, key)
    assert first == names[::-1], "no turn goes before one that continues it"
    assert used >= begun_ms * 1000, "every turn is renewed"
    await store(responses, key, turn("next", last))
    assert (await by_use(responses, key))[0] == ["next", *names[::-1]]
    fewer = ResponseStore(ledgers.store, policy(max_depth=turns - 1))
    assert f"more than {turns - 1} turns" in (await refusal(fewer, key, last)).message


async def test_a_long_chain_goes_piece_by_piece_and_from_its_end(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy(max_depth=5000, max_team_bytes=1)), await ledgers.new_key()
    await long_chain(responses, key, 2500)
    for number, kept in enumerate((1500, 500, 0)):
        await store(responses, key, turn(f"new{number}"))
        left = set((await by_use(responses, key))[0])
        assert {name for name in left if name[0] == "r"} == {f"r{at}" for at in range(kept)}


async def test_turns_beyond_the_bound_before_a_compaction_go_first(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy(max_depth=1000)), await ledgers.new_key()
    last, contents = await long_chain(responses, key, 2500), TeamKeys(key.team_id).stored_responses[0]
    summary = {"type": "compaction", "id": "cmp_1", "encrypted_content": "what was said"}
    packed = pack(turn("r2400", "r2399", output=[summary]), key.team_id)
    await ledgers.store.run("HSET", contents, "r2400", packed)
    assert await ids(responses, key, last) == [f"r{at}" for at in range(2400, 2500)]
    # Of the 2,500 turns, the last 2,000 were followed and renewed.
    await store(ResponseStore(ledgers.store, policy(max_team_bytes=1)), key, turn("new"))
    assert set((await by_use(responses, key))[0]) == {"new", *(f"r{at}" for at in range(500, 2500))}


@pytest.mark.parametrize("turns", [9, 1001, 2001])
async def test_what_a_response_continues_is_listed_without_what_was_deleted(ledgers: LedgerParts, turns: int) -> None:
    responses, key = ResponseStore(ledgers.store, policy(max_depth=turns)), await ledgers.new_key()
    last = await long_chain(responses, key, turns)
    record = await responses.get(key, last)
    assert record is not None
    deleted = {"r0", f"r{turns // 2}", f"r{turns // 2 + 1}", f"r{turns - 2}"}
    for identifier in deleted:
        assert await responses.delete(key.team_id, identifier)
    found = [before.response_id for before in await responses.ancestors(key, record)]
    assert found == [name for name in map("r{}".format, range(turns - 1)) if name not in deleted]
    few = ResponseStore(ledgers.store, policy(max_depth=3))
    assert [before.response_id for before in await few.ancestors(key, record)] == found[-3:]


async def test_what_has_expired_is_listed_no_more(ledgers: LedgerParts) -> None:
    responses, key = ResponseStore(ledgers.store, policy()), await ledgers.new_key()
    last = await long_chain(responses, key, 3)
    record = await responses.read(key.team_id, last)
    assert record is not None
    assert len(await responses.ancestors(key, record)) == 2
    shorter = ResponseStore(ledgers.store, policy(ttl_s=10))  # they were used half a minute ago
    assert await shorter.ancestors(key, record) == []
    assert await responses.get(key, last) is not None
