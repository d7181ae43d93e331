"""What workers saw of requests: how they ended, how long they took, why some were refused; beside their usage."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.reporting.outcome_rollups import MAX_FIELDS_OF_REFUSALS, OutcomeRollups, Where
from gateway.store.errors import StoreError
from gateway.store.keyspace import TEAMS, TeamKeys
from gateway.store.store import Store, StoreSettings
from tests.support.admins import admin_client, done, new_team
from tests.support.gateway import RunningGateway
from tests.support.ledgers import LedgerParts, open_ledger
from tests.support.ports import free_port
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync


@pytest.fixture
async def parts(store: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(store.url, tmp_path) as opened:
        yield opened


def usage(root: httpx.Client, team: dict[str, Any], **query: str) -> dict[str, Any]:
    return done(root.get("/usage", params={"team": team["id"], **query}))


@pytest.mark.parametrize("step", ["hour", "day"])
def test_usage_tells_how_requests_ended_and_how_long_they_took(gateway: RunningGateway, step: str) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k", "limits": {"rpm": 4}}))["key"]
        with gateway.sdk(key) as client:
            for model in ("a/fast", "a/fast", "b/other"):
                client.responses.create(model=model, input="hello")
            for _ in client.responses.create(model="b/other", input="hello", stream=True):
                pass
            with pytest.raises(openai.RateLimitError):
                client.responses.create(model="a/fast", input="one too many")
        wait_until_sync(lambda: usage(root, team, step=step)["total"]["refused"] == 1, what="all is counted")
        found = usage(root, team, step=step, by="model")
    total = found["total"]
    assert total["outcomes"] == {"completed": 4}
    assert total["refusals"] == [{"code": "rate_limit_exceeded", "limit": "rpm", "scope": "key", "requests": 1}]
    assert total["total_ms"]["requests"] == total["requests"] == 4
    assert 0 < total["total_ms"]["median"] <= total["total_ms"]["p95"]
    assert total["first_byte_ms"]["requests"] == 1, "of the one stream"
    models = {group["model"]: group for group in found["groups"]}
    assert {name: (group["requests"], group["refused"]) for name, group in models.items()} == {
        "a/fast": (2, 1),
        "b/other": (2, 0),
    }
    assert sum(row["total_ms"]["requests"] for row in found["data"]) == 4


def test_a_request_that_was_not_charged_is_an_outcome_and_no_usage(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"]
        with gateway.sdk(key) as client, pytest.raises(openai.APIStatusError):
            client.responses.create(model="sim/error-400", input="hello")
        wait_until_sync(lambda: usage(root, team)["total"]["outcomes"] != {}, what="it is counted")
        total = usage(root, team)["total"]
    assert total["outcomes"] == {"upstream_refused": 1}
    assert (total["requests"], total["cost_usd"], total["total_ms"]) == (0, "0", None)


async def test_workers_counts_add_up(parts: LedgerParts) -> None:
    key = await parts.new_key()
    now_ms = time.time_ns() // 1_000_000
    workers = [OutcomeRollups(parts.store, retention_s=60) for _ in range(5)]
    seen = {Where(key.team_id, now_ms): Counter({"total,400|a|b": 2, "end,completed|a|b": 1})}
    await asyncio.gather(*(worker.write(seen) for worker in workers * 4))
    names = TeamKeys(key.team_id)
    for name in (names.outcomes("hour", now_ms), names.outcomes("day", now_ms)):
        assert await parts.store.run("HMGET", name, "total,400|a|b", "end,completed|a|b") == [b"40", b"20"]
        assert 0 < await parts.store.run("PTTL", name) <= 60_000


async def test_a_stranger_counts_nothing(parts: LedgerParts) -> None:
    key = await parts.new_key()
    now_ms = time.time_ns() // 1_000_000
    forged = {Where(key.team_id, now_ms, key.key_id, "0" * 64): Counter({"no,invalid_api_key,,|m": 1})}
    await OutcomeRollups(parts.store, retention_s=60).write(forged)
    assert await parts.store.run("EXISTS", TeamKeys(key.team_id).outcomes("hour", now_ms)) == 0


async def test_however_many_models_a_key_names_the_counts_stay_bounded_and_complete(parts: LedgerParts) -> None:
    key = await parts.new_key()
    now_ms = time.time_ns() // 1_000_000
    log = OutcomeRollups(parts.store, retention_s=60)
    for start in range(0, 3_000, 500):
        counts = Counter({f"no,model_not_allowed,models,key|model {number}": 1 for number in range(start, start + 500)})
        await log.write({Where(key.team_id, now_ms, key.key_id, key.secret_hash): counts})
    flat = await parts.store.run("HGETALL", TeamKeys(key.team_id).outcomes("day", now_ms))
    assert len(flat) // 2 <= MAX_FIELDS_OF_REFUSALS + 500
    assert sum(map(int, flat[1::2])) == 3_000


def test_usage_of_all_of_many_teams_for_a_month_is_one_question(gateway: RunningGateway) -> None:
    """More steps times teams than are read, or kept, at once; the larger it gets the longer it takes, and no more."""
    teams, days = 400, 31
    now_ms = time.time_ns() // 1_000_000
    before_ms = now_ms - 40 * 86_400_000
    name = [f"M{number:09}" for number in range(teams)]

    async def fill() -> None:
        store = gateway.services.store
        for at, team in enumerate(name):
            names = TeamKeys(team)
            starts = [before_ms - day * 86_400_000 for day in range(days)]
            calls = [
                store.run("ZADD", TEAMS, str(at), team),
                store.run("HSET", names.team, "name", f"many {at}", "created_ms", "1", "status", "active"),
            ]
            calls += [store.run("HSET", names.usage("day", start), "k|a/b", f"1 2 0 3 {at}") for start in starts]
            calls += [store.run("PEXPIRE", names.usage("day", start), "60000") for start in starts]
            await asyncio.gather(*calls)

    async def forget() -> None:
        await asyncio.gather(*(gateway.services.store.run("ZREM", TEAMS, team) for team in name))

    gateway.run(fill())
    try:
        with admin_client(gateway) as root:
            period = {"from": _day(before_ms - 30 * 86_400_000), "to": _day(before_ms + 86_400_000), "step": "day"}
            found = done(root.get("/usage", params={"by": "team", "limit": "10", **period}))
    finally:
        gateway.run(forget())
    assert found["total"]["requests"] == teams * days
    assert [group["team"] for group in found["groups"]] == [f"many {at}" for at in range(399, 389, -1)]
    assert found["others"]["groups"] == teams - 10
    assert found["others"]["requests"] == (teams - 10) * days
    assert len(found["others"]["data"]) == days
    assert len(found["data"]) == 10 * days


def _day(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at_ms / 1000))


async def test_a_team_whose_counts_the_store_refuses_costs_no_other_team_its_own(parts: LedgerParts) -> None:
    sick, well = await parts.new_key(), await parts.new_key()
    now_ms = time.time_ns() // 1_000_000
    await parts.store.run("SET", TeamKeys(sick.team_id).outcomes("hour", now_ms), "no hash", "PX", "60000")
    rollups = OutcomeRollups(parts.store, retention_s=60)
    seen = {Where(key.team_id, now_ms): Counter({"end,completed|m": 2}) for key in (sick, well)}
    unwritten = await rollups.write(seen)
    assert (unwritten.kept, unwritten.lost) == ({}, 2)
    assert isinstance(unwritten.fault, StoreError)
    assert await parts.store.run("HGET", TeamKeys(well.team_id).outcomes("hour", now_ms), "end,completed|m") == b"2"


async def test_counts_that_did_not_reach_the_store_are_written_when_it_is_back(parts: LedgerParts) -> None:
    key = await parts.new_key()
    now_ms = time.time_ns() // 1_000_000
    away = await Store.open(StoreSettings(url=f"redis://127.0.0.1:{free_port()}", timeout_s=1, connect_timeout_s=1))
    seen = {Where(key.team_id, now_ms): Counter({"end,completed|m": 2})}
    unwritten = await OutcomeRollups(away, retention_s=60).write(seen)
    await away.close()
    assert (unwritten.kept, unwritten.lost) == (seen, 0)
    await OutcomeRollups(parts.store, retention_s=60).write(unwritten.kept)
    assert await parts.store.run("HGET", TeamKeys(key.team_id).outcomes("hour", now_ms), "end,completed|m") == b"2"
