"""The spool: on disk before it counts, replayed once, bounded; nothing in it is thrown away in silence."""

from __future__ import annotations

import asyncio
import fcntl
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.ledger.settlement_call import SETTLE, Resolution, SettlementCalls
from gateway.ledger.spool import Spool, SpooledCall
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.keyspace import TeamKeys
from tests.support.ledgers import DAY_S, ask, kept_up, open_ledger, policy, settled
from tests.support.servers import Server, durable_valkey_server
from tests.support.waiting import wait_until, wait_until_found

ROOM = 100_000


class Taker:
    """Takes what is replayed; `down` and `refuses` make it fail as a store does."""

    def __init__(self, *, down_after: int = 1_000_000, refuses: str = "", fault: Exception | None = None) -> None:
        self.fault = fault or StoreError("ERR no")
        self.taken: list[str] = []
        self.down_after = down_after
        self.refuses = refuses

    async def __call__(self, script: str, keys: list[str], args: list[str]) -> None:
        if args[0] == self.refuses:
            raise self.fault
        if len(self.taken) >= self.down_after:
            raise StoreUnavailable("connect")
        self.taken.append(args[0])


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path, ROOM, DAY_S)
    yield spool
    await spool.close()


def fill(spool: Spool, *names: str) -> None:
    for name in names:
        spool.add("settle_v2", ["k"], [name])


def files(directory: Path, suffix: str = ".spool") -> list[Path]:
    return sorted(directory.glob(f"*{suffix}"))


async def test_what_is_added_is_on_disk_as_one_line_each(spool: Spool, tmp_path: Path) -> None:
    fill(spool, "a", "b")
    await spool.close()
    [file] = files(tmp_path)
    assert [SpooledCall.read(raw).args for raw in file.read_bytes().splitlines()] == [["a"], ["b"]]


async def test_a_replay_takes_every_line_and_removes_the_file(spool: Spool, tmp_path: Path) -> None:
    fill(spool, "a", "b")
    taker = Taker()
    await spool.replay(taker)
    assert sorted(taker.taken) == ["a", "b"]
    assert files(tmp_path) == []
    assert (spool.spooled, spool.replayed, spool.pending) == (2, 2, False)


async def test_a_replay_that_meets_an_outage_keeps_the_file_for_the_next(spool: Spool, tmp_path: Path) -> None:
    fill(spool, "a", "b", "c")
    await spool.replay(Taker(down_after=1))
    assert len(files(tmp_path)) == 1
    taker = Taker()
    await spool.replay(taker)
    assert sorted(taker.taken) == ["a", "b", "c"]


async def test_lines_added_during_a_replay_are_kept(spool: Spool, tmp_path: Path) -> None:
    fill(spool, "a")

    async def add_more(script: str, keys: list[str], args: list[str]) -> None:
        fill(spool, "late")

    await spool.replay(add_more)
    taker = Taker()
    await spool.replay(taker)
    assert taker.taken == ["late"]


async def test_a_restarted_gateway_replays_what_the_dead_one_left(spool: Spool, tmp_path: Path) -> None:
    fill(spool, "a")
    await spool.close()
    after = Spool(tmp_path, ROOM, DAY_S)
    taker = Taker()
    await after.replay(taker)
    assert taker.taken == ["a"]


async def test_a_file_that_a_living_worker_writes_is_left_alone(spool: Spool, tmp_path: Path) -> None:
    fill(spool, "a")
    await wait_until(lambda: bool(files(tmp_path)))
    other = Spool(tmp_path, ROOM, DAY_S)
    taker = Taker()
    await other.replay(taker)
    assert taker.taken == []
    assert len(files(tmp_path)) == 1


async def test_a_file_is_locked_before_anybody_can_see_it(spool: Spool, tmp_path: Path) -> None:
    for _ in range(20):
        fill(spool, "a")
        await wait_until(lambda: bool(files(tmp_path)))
        with files(tmp_path)[0].open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        await spool.replay(Taker())


@pytest.mark.parametrize(
    "torn",
    [b'{"at":1,"script":"settle', b"\xff\xfe", b"[]", b"1", b'{"script":"settle_v2","keys":[],"args":[]}', b"null"],
)
async def test_a_torn_line_is_kept_aside_and_the_others_are_replayed(spool: Spool, tmp_path: Path, torn: bytes) -> None:
    fill(spool, "a")
    await spool.close()
    with files(tmp_path)[0].open("ab") as file:
        file.write(torn)
    taker = Taker()
    with capture_logs() as logs:
        await spool.replay(taker)
    assert taker.taken == ["a"]
    assert [path.read_bytes() for path in files(tmp_path, ".refused")] == [torn]
    assert files(tmp_path) == []
    assert (spool.refused, spool.replayed) == (1, 1)
    assert [log["log_level"] for log in logs if log["event"] == "spool_line_refused"] == ["error"]


@pytest.mark.parametrize("fault", [StoreError("ERR no"), StoreUnavailable("NOPERM"), StoreUnavailable("TRYAGAIN")])
async def test_a_line_that_the_store_refuses_waits_and_holds_up_no_other(
    spool: Spool, tmp_path: Path, fault: Exception
) -> None:
    fill(spool, "a", "bad", "c")
    taker = Taker(refuses="bad", fault=fault)
    with capture_logs() as logs:
        assert not await spool.replay(taker)
        assert not await spool.replay(taker)
    assert sorted(taker.taken) == ["a", "c"], "those were sent once"
    [file] = files(tmp_path)
    assert SpooledCall.read(file.read_bytes()).args == ["bad"]
    assert files(tmp_path, ".refused") == []
    assert [log["event"] for log in logs if log["event"] == "spool_waits"] == ["spool_waits"], "it is said once"
    taker = Taker()
    assert await spool.replay(taker)
    assert (taker.taken, files(tmp_path)) == (["bad"], [])
    assert (spool.replayed, spool.refused) == (3, 0)


async def test_a_line_older_than_the_stores_memory_is_not_replayed_and_not_lost(spool: Spool, tmp_path: Path) -> None:
    now = time.time()
    lines = [
        SpooledCall(now - DAY_S, "settle_v2", ["k"], ["old"]),
        SpooledCall(now - DAY_S / 2, "settle_v2", ["k"], ["young"]),
    ]
    (tmp_path / "left.spool").write_bytes(b"".join(line.write() for line in lines))
    taker = Taker()
    await spool.replay(taker)
    assert taker.taken == ["young"]
    assert (tmp_path / "left.refused").read_bytes() == lines[0].write()


async def test_a_full_spool_is_said_aloud_with_every_lost_line(tmp_path: Path) -> None:
    (tmp_path / "of-another-worker.spool").write_bytes(
        SpooledCall(time.time(), "settle_v2", ["k"], ["a" * 3000]).write()
    )
    spool = Spool(tmp_path, 4096, DAY_S)
    with capture_logs() as logs:
        fill(spool, "b" * 2000)
        await spool.close()
        fill(spool, "small")
        await spool.close()
    [loss] = [log for log in logs if log["event"] == "settlement_lost"]
    assert "b" * 2000 in loss["line"]
    assert "full" in loss["error"]
    assert spool.lost == 1
    taker = Taker()
    await spool.replay(taker)
    assert sorted(taker.taken) == ["a" * 3000, "small"]


async def test_a_disk_that_fails_is_said_aloud(tmp_path: Path) -> None:
    (tmp_path / "no-directory").write_text("a file")
    spool = Spool(tmp_path / "no-directory", ROOM, DAY_S)
    with capture_logs() as logs:
        fill(spool, "a")
        await spool.close()
    assert spool.lost == 1
    (lost,) = [entry for entry in logs if entry["event"] == "settlement_lost"]
    assert '"args":["a"]' in lost["line"]


async def test_half_a_line_that_the_disk_had_no_room_for_is_taken_back(spool: Spool, tmp_path: Path) -> None:
    fill(spool, "a")
    await wait_until(lambda: bool(files(tmp_path)) and files(tmp_path)[0].stat().st_size > 0)
    room = files(tmp_path)[0].stat().st_size + 100
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))  # writes stop there, as on a full disk
    try:
        fill(spool, "b" * 1000)
        await wait_until(lambda: spool.lost == 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    fill(spool, "c")
    taker = Taker()
    await spool.replay(taker)
    assert sorted(taker.taken) == ["a", "c"]
    assert spool.refused == 0


async def test_a_cancelled_replay_loses_nothing(spool: Spool) -> None:
    fill(spool, "a")
    replay = asyncio.ensure_future(spool.replay(Taker()))
    await asyncio.sleep(0)
    replay.cancel()
    with pytest.raises(asyncio.CancelledError):
        await replay
    fill(spool, "b")
    taker = Taker()
    await spool.replay(taker)
    assert sorted(taker.taken) == ["a", "b"]


@given(st.lists(st.text(), max_size=5), st.lists(st.text(), max_size=5), st.text(), st.integers(0, 2**40))
def test_a_line_reads_as_it_was_written(keys: list[str], args: list[str], script: str, at_s: int) -> None:
    keys, args = ([text.encode(errors="replace").decode() for text in texts] for texts in (keys, args))
    line = SpooledCall(at_s, script.encode(errors="replace").decode(), keys, args)
    assert line.write().count(b"\n") == 1
    assert SpooledCall.read(line.write()) == line


async def test_settlements_spooled_in_an_outage_are_posted_when_the_store_is_back(
    store: Server, tmp_path: Path
) -> None:
    async with open_ledger(store.url, tmp_path) as parts, kept_up(parts.ledger):
        key = await parts.new_key(credit=100)
        holds = [(await parts.ledger.admit(ask(key))).hold for _ in range(3)]
        store.pause()
        posted = [parts.ledger.settle(settled(hold, cost=5)) for hold in holds]
        assert await asyncio.gather(*posted) == [None, None, None]
        await wait_until(lambda: bool(files(tmp_path / "spool")))
        store.resume()

        async def nothing_held() -> bool:
            return parts.store.available and parts.spool.replayed == 3 and not (await parts.books(key)).holds

        await wait_until_found(nothing_held)
        books = await parts.books(key)
        books.check()
        assert books.spent == 15


async def test_settlements_of_a_gateway_that_ended_in_an_outage_are_posted_by_the_next(tmp_path: Path) -> None:
    with durable_valkey_server() as server:
        async with open_ledger(server.url, tmp_path) as first:
            key = await first.new_key(credit=100)
            hold = (await first.ledger.admit(ask(key))).hold
            server.kill()
            assert await first.ledger.settle(settled(hold, cost=5)) is None
        server.restart()
        async with open_ledger(server.url, tmp_path) as second, kept_up(second.ledger):
            await wait_until(lambda: second.spool.replayed == 1)
            books = await second.books(key)
            books.check()
            assert (books.spent, books.held) == (5, 0)
            assert second.ledger.resolutions == {Resolution.APPLIED: 1}


async def test_a_spooled_settlement_that_had_arrived_after_all_is_not_posted_twice(
    store: Server, tmp_path: Path
) -> None:
    async with open_ledger(store.url, tmp_path) as parts:
        key = await parts.new_key(credit=100)
        hold = (await parts.ledger.admit(ask(key))).hold
        settlement = settled(hold, cost=5)
        await parts.ledger.settle(settlement)
        parts.spool.add(SETTLE.name, *SettlementCalls(policy()).call(settlement))
        await parts.ledger.flush()
        (await parts.books(key)).check()
        assert parts.ledger.resolutions == {Resolution.APPLIED: 1, Resolution.REPLAYED: 1}


@pytest.mark.parametrize("script", ["settle_v1", "settle_v2", "settle_v3", "settle_v4", "settle_v5", "settle_v6"])
@pytest.mark.parametrize("remembered", [False, True])
async def test_a_line_of_a_version_before_this_one_is_posted(
    store: Server, tmp_path: Path, script: str, remembered: bool
) -> None:
    async with open_ledger(store.url, tmp_path) as parts:
        key = await parts.new_key(credit=100)
        hold = (await parts.ledger.admit(ask(key))).hold
        names = TeamKeys(key.team_id)
        keys, args = SettlementCalls(policy()).call(settled(hold, cost=5))
        if script != "settle_v6":
            keys = [*keys[:6], names.resolution(hold.id), *keys[8:10]]
        args = args[: {"settle_v3": 20, "settle_v4": 21, "settle_v5": 22, "settle_v6": 27}.get(script, 18)]
        if script == "settle_v1":  # it rolled usage up by the hour alone
            keys = [*keys[:7], f"gw:{{{key.team_id}}}:usage:1"]
        if remembered:
            keys, args = [*keys, names.response("resp_1")], [*args, "made", "60000"]
        parts.spool.add(script, keys, args)
        await parts.ledger.flush()
        books = await parts.books(key)
        books.check()
        assert books.spent == 5
        rolled_up = await parts.store.run("HGETALL", names.usage("day", hold.admitted_ms))
        assert rolled_up[1].endswith(b" 5")
        assert await parts.store.run("GET", names.response("resp_1")) == (b"made" if remembered else None)
