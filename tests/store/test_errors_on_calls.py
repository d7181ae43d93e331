"""Errors on single calls: what each word of the store means for an admission and for a settlement, on real stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot
from structlog.testing import capture_logs

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger.ledger import Ledger
from gateway.store.errors import REPLY_FAULTS, StoreError, StoreUnavailable, reply_exception
from gateway.store.keyspace import TeamKeys
from gateway.store.store import Store, StoreSettings
from tests.support.ledgers import LedgerParts, ask, kept_up, open_ledger, settled
from tests.support.servers import Cluster, Server, valkey_cluster, valkey_server
from tests.support.waiting import wait_until, wait_until_found

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def server() -> Iterator[Server]:
    with valkey_server(tcp=True) as server:
        server.run("ACL", "SETUSER", "gateway", "on", ">secret", "~*", "&*", "+@all")
        yield server


@pytest.fixture
async def parts(server: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    url = f"redis://gateway:secret@127.0.0.1:{server.port}"
    async with open_ledger(url, tmp_path) as parts:
        yield parts


@pytest.mark.parametrize("word", REPLY_FAULTS)
def test_each_word_is_an_outage_of_some_scope_and_never_a_mistake(word: str) -> None:
    fault = reply_exception(f"{word} says the store")
    assert isinstance(fault, StoreUnavailable)
    assert (fault.reason, fault.maybe_applied) == (word, False)


@pytest.mark.parametrize("message", ["ERR unknown command", "WRONGTYPE Operation against a key", "WRONGPASS invalid"])
def test_any_other_word_is_a_mistake(message: str) -> None:
    assert isinstance(reply_exception(message), StoreError)


async def _refusal(parts: LedgerParts, key: ApiKey) -> GatewayError | None:
    try:
        await parts.ledger.admit(ask(key))
    except GatewayError as error:
        return error
    return None


def _forbid_a_command(server: Server) -> None:
    server.run("ACL", "SETUSER", "gateway", "-evalsha")


def _forbid_it_inside_scripts(server: Server) -> None:
    server.run("ACL", "SETUSER", "gateway", "-hset")


def _forbid_the_keys(server: Server) -> None:
    server.run("ACL", "SETUSER", "gateway", "resetkeys", "~gw:teams")


@pytest.mark.parametrize("forbid", [_forbid_a_command, _forbid_it_inside_scripts, _forbid_the_keys])
async def test_what_the_store_forbids_is_a_503_and_one_line_and_no_settlement_is_lost(
    server: Server, parts: LedgerParts, tmp_path: Path, forbid: Callable[[Server], None]
) -> None:
    key = await parts.new_key(credit=100)
    holds = [(await parts.ledger.admit(ask(key))).hold for _ in range(3)]
    forbid(server)
    with capture_logs() as logs:
        for _ in range(5):
            error = await _refusal(parts, key)
            assert error is not None
            assert (error.code, error.wait_ms) == ("store_unavailable", 1000)
        assert await asyncio.gather(*(parts.ledger.settle(settled(hold, cost=5)) for hold in holds)) == [None] * 3
    assert len([log for log in logs if log["event"] == "store_refuses"]) == 1
    server.run("ACL", "SETUSER", "gateway", "~*", "+@all")
    async with kept_up(parts.ledger):
        await wait_until_found(lambda: _spent(parts, key, 15), what="all is posted")
        assert not list((tmp_path / "spool").glob("*.refused"))
        assert await _refusal(parts, key) is None
    (await parts.books(key)).check()


async def _spent(parts: LedgerParts, key: ApiKey, amount: int) -> bool:
    return (await parts.books(key)).spent == amount


async def test_a_store_that_wants_a_password_now_is_a_503_and_serves_again_when_it_takes_ours(
    server: Server, tmp_path: Path
) -> None:
    async with open_ledger(server.url, tmp_path) as parts, kept_up(parts.ledger):
        key = await parts.new_key(credit=100)
        hold = (await parts.ledger.admit(ask(key))).hold
        server.run("CONFIG", "SET", "requirepass", "now")
        server.run_as("now", "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        error = await _refusal(parts, key)
        assert error is not None
        assert error.code == "store_unavailable"
        assert await parts.ledger.settle(settled(hold, cost=5)) is None
        server.run_as("now", "CONFIG", "SET", "requirepass", "")
        await wait_until(lambda: parts.store.available)
        await wait_until_found(lambda: _spent(parts, key, 5))


async def test_a_store_that_forbids_us_from_the_start_ends_the_start(server: Server) -> None:
    server.run("ACL", "SETUSER", "gateway", "-setrange")
    with pytest.raises(StoreError, match="NOPERM"):
        await Store.open(StoreSettings(url=f"redis://gateway:secret@127.0.0.1:{server.port}"))
    server.run("CONFIG", "SET", "requirepass", "now")
    try:
        with pytest.raises(StoreError, match="NOAUTH"):
            await Store.open(StoreSettings(url=server.url))
    finally:
        server.run_as("now", "CONFIG", "SET", "requirepass", "")


async def test_a_key_of_a_wrong_type_is_a_503_and_its_settlement_waits(server: Server, parts: LedgerParts) -> None:
    key = await parts.new_key(credit=100)
    hold = (await parts.ledger.admit(ask(key))).hold
    names = TeamKeys(key.team_id)
    server.run("RENAME", names.state, f"{names.state}:kept")
    server.run("SET", names.state, "a mistake of somebody's")
    error = await _refusal(parts, key)
    assert error is not None
    assert error.code == "store_unavailable"
    assert await parts.ledger.settle(settled(hold, cost=5)) is None
    async with kept_up(parts.ledger):
        server.run("RENAME", f"{names.state}:kept", names.state)
        await wait_until_found(lambda: _spent(parts, key, 5))


# a cluster whose slots move


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with valkey_cluster() as cluster:
        yield cluster


class Migration:
    """Moves a slot from its node to another, key by key, as cluster tools do."""

    def __init__(self, cluster: Cluster, slot: int) -> None:
        self._cluster = cluster
        self._slot = slot
        self._source = cluster.primary_of(slot, seen_by=cluster.nodes[0])
        self._target = next(node for node in cluster.nodes if node is not self._source)

    def begin(self) -> None:
        source, target = self._cluster.node_id(self._source), self._cluster.node_id(self._target)
        self._target.run("CLUSTER", "SETSLOT", self._slot, "IMPORTING", source)
        self._source.run("CLUSTER", "SETSLOT", self._slot, "MIGRATING", target)

    def move(self, most: int) -> int:
        """Moves some keys; how many."""
        names = self._source.run("CLUSTER", "GETKEYSINSLOT", self._slot, most)
        for name in names:
            self._source.run("MIGRATE", "127.0.0.1", self._target.port, name, 0, 5000)
        return len(names)

    def end(self) -> None:
        while self.move(100):
            pass
        node = self._cluster.node_id(self._target)
        for one in (self._target, self._source, *self._cluster.nodes):
            one.run("CLUSTER", "SETSLOT", self._slot, "NODE", node)


class Clients:
    """Four clients of one team, which may have four requests open: one that is refused for that met a lost slot."""

    def __init__(self, key: ApiKey, ledgers: list[Ledger]) -> None:
        self.key = key
        self.refusals: set[str] = set()
        self.asked = 0
        self._ending = False
        self._tasks = [asyncio.create_task(self._run(ledgers[number % len(ledgers)])) for number in range(4)]

    async def _run(self, ledger: Ledger) -> None:
        while not self._ending:
            try:
                admission = await ledger.admit(ask(self.key))
            except GatewayError as error:
                self.refusals.add(error.code)
                await asyncio.sleep(0.02)  # as a client that was told to come back
                continue
            self.asked += 1
            await asyncio.sleep(0)
            await ledger.settle(settled(admission.hold, cost=3))

    async def end(self) -> None:
        self._ending = True
        await asyncio.gather(*self._tasks)

    async def served_on(self) -> None:
        """Waits until some more requests were admitted."""
        enough = self.asked + 20
        await wait_until(lambda: self.asked > enough, what="the team is served")


async def _slots_move(cluster: Cluster, directory: Path, *, teams: int, rounds: int) -> None:
    """Moves each team's slot to another node, again and again, under the load of two workers; checks the books."""
    async with (
        open_ledger(cluster.url, directory / "one", hold_ttl_s=60.0) as parts,
        open_ledger(cluster.url, directory / "two", hold_ttl_s=60.0) as others,
        kept_up(parts.ledger),
        kept_up(others.ledger),
    ):
        keys = [await parts.new_key(credit=10**9, limits={"concurrency": 4}) for _ in range(teams)]
        all_clients = [Clients(key, [parts.ledger, others.ledger]) for key in keys]
        for _ in range(rounds):
            for clients in all_clients:  # one at a time: two nodes that MIGRATE to each other wait for each other
                await _move_under_load(cluster, clients)
        for clients in all_clients:
            await clients.end()
        for clients in all_clients:
            await _all_came_back(parts, clients)


async def _move_under_load(cluster: Cluster, clients: Clients) -> None:
    await clients.served_on()
    migration = Migration(cluster, key_slot(TeamKeys(clients.key.team_id).team.encode()))
    await asyncio.to_thread(migration.begin)
    for _ in range(4):
        await asyncio.to_thread(migration.move, 3)
        await asyncio.sleep(0.3)  # its keys lie on both nodes, as in a migration that takes its time
    await asyncio.to_thread(migration.end)
    await clients.served_on()


async def _all_came_back(parts: LedgerParts, clients: Clients) -> None:
    async def nothing_held() -> bool:
        return not (await parts.books(clients.key)).holds

    await wait_until_found(nothing_held, what="every slot is back, long before a hold would expire")
    books = await parts.books(clients.key)
    books.check()
    assert (books.spent, len(books.entries("settle"))) == (3 * clients.asked, clients.asked)
    assert books.entries("expire") == []
    assert clients.refusals <= {"store_unavailable"}


async def test_while_its_slot_moves_a_team_waits_and_no_slot_and_no_settlement_is_lost(
    cluster: Cluster, tmp_path: Path
) -> None:
    await _slots_move(cluster, tmp_path, teams=1, rounds=1)


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_while_slots_move_for_long_under_load_no_slot_and_no_settlement_is_lost(
    cluster: Cluster, tmp_path: Path
) -> None:
    await _slots_move(cluster, tmp_path, teams=5, rounds=4)
