"""The store's nodes: a Sentinel's failover, a cluster's slots."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.script import Script
from gateway.store.store import Store
from gateway.store.topology import Layout, layout_of_slots
from gateway.store.url import Address
from tests.support.servers import STORES, Cluster, SentinelGroup, Server, binary_of, valkey_cluster, valkey_sentinel
from tests.support.stores import COUNT, attempt, hasty, opened
from tests.support.waiting import wait_until

PAIR = Script.of("pair", "redis.call('INCR', KEYS[1]) return redis.call('INCR', KEYS[2])")


@pytest.fixture(scope="module", params=STORES)
def program(request: pytest.FixtureRequest) -> str:
    return binary_of(request.param)


# slots


def test_slots_that_nobody_serves_make_a_layout_incomplete() -> None:
    layout = layout_of_slots(
        [[0, 99, [b"a", 1, b"id"], [b"replica", 2, b"id"]], [200, 16383, [b"", 3, b"id"]]], Address("me", 9)
    )
    assert layout.nodes == (Address("a", 1), Address("me", 3))
    assert layout.slots[99:101] == [Address("a", 1), None]
    assert not layout.complete


@pytest.mark.parametrize("reply", [[], [[0, 1]], [[b"x", 1, [b"a", 1]]]])
def test_a_reply_that_names_no_slots_is_an_outage(reply: list[list[object]]) -> None:
    with pytest.raises(StoreUnavailable):
        layout_of_slots(reply, Address("me", 9))


@given(st.text(), st.text())
def test_keys_with_one_hash_tag_have_one_node(team: str, name: str) -> None:
    nodes = (Address("a", 1), Address("b", 2))
    layout = Layout(nodes, [*nodes] * 8192)
    tag = team.replace("}", "") or "t"
    assert layout.node_of(f"gw:{{{tag}}}:{name}") == layout.node_of(f"{{{tag}}}")


def test_a_node_is_probed_with_a_key_that_it_serves() -> None:
    nodes = (Address("a", 1), Address("b", 2))
    layout = Layout(nodes, [*[nodes[0]] * 16000, *[nodes[1]] * 384])
    for node in nodes:
        command, key, *_ = layout.probe(node)
        assert (command, layout.node_of(str(key))) == ("SETRANGE", node)
    assert layout.probe(Address("spare", 3)) == ("PING",)


# Sentinel


@pytest.fixture(scope="module")
def settled_sentinel(program: str) -> Iterator[SentinelGroup]:
    with valkey_sentinel(binary=program) as group:
        yield group


async def test_a_sentinel_names_the_primary(settled_sentinel: SentinelGroup) -> None:
    async with opened(hasty(settled_sentinel.url)) as store:
        assert await store.call(COUNT, ["n"], [1]) == 1
        assert await store.redis.get("n") == b"1"


async def test_a_primary_that_no_sentinel_knows_is_an_outage(settled_sentinel: SentinelGroup) -> None:
    async with opened(hasty(settled_sentinel.url.replace("mymaster", "other"))) as store:
        assert not store.available
        assert await attempt(store, "n") == "sentinel"


@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_a_failover_moves_the_store_to_the_new_primary(how: str) -> None:
    with valkey_sentinel() as group:
        async with opened(hasty(group.url)) as store:
            await store.call(COUNT, ["n"], [41])
            await wait_until(lambda: group.replica.run("GET", "n") == b"41")
            if how == "killed":
                group.primary.kill()
            else:
                group.primary.pause()
            await attempt(store, "n")
            await wait_until(lambda: store.available)
            assert await store.call(COUNT, ["n"], [1]) >= 42
            assert group.replica.run("ROLE")[0] == b"master"


def serves_a_gateway(server: Server) -> bool:
    try:
        return b"name=gateway" in server.run("CLIENT", "LIST", "TYPE", "normal")
    except redis.ConnectionError:  # a replica that becomes a primary drops its connections, the one that asks too
        return False


async def test_a_planned_failover_moves_the_store_while_the_old_primary_still_takes_writes() -> None:
    with valkey_sentinel() as group:
        async with opened(hasty(group.url)) as store:
            await store.call(COUNT, ["n"], [1])
            group.sentinels[0].run("SENTINEL", "FAILOVER", "mymaster")
            await wait_until(lambda: serves_a_gateway(group.replica))
            await wait_until(lambda: store.available)
            assert await store.call(COUNT, ["n"], [1]) == 2
            assert group.replica.run("GET", "n") == b"2"


# Cluster


@pytest.fixture(scope="module")
def cluster(program: str) -> Iterator[Cluster]:
    with valkey_cluster(binary=program) as cluster:
        yield cluster


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[Store]:
    async with opened(hasty(cluster.url)) as store:
        assert store.available
        yield store


def key_of(cluster: Cluster, node: Server) -> str:
    """Returns a key whose slot `node` serves."""
    keys = (f"{{team-{number}}}:key" for number in range(10_000))
    return next(key for key in keys if cluster.primary_of(key_slot(key.encode()), seen_by=node) is node)


async def test_each_call_goes_to_the_node_of_its_first_key(store: Store, cluster: Cluster) -> None:
    for node in cluster.nodes:
        key = key_of(cluster, node)
        assert await store.call(PAIR, [key, f"{key}:2"], []) == 1
        assert node.run("GET", key) == b"1"
        assert await store.run("GET", key) == b"1"
        assert await store.run("EVAL", "return KEYS[1]", 1, key, key=key) == key.encode()
        assert await store.redis.get(key) == b"1"


async def test_a_call_touches_one_slot_or_is_refused(store: Store, cluster: Cluster) -> None:
    keys = [key_of(cluster, node) for node in cluster.nodes[:2]]
    with pytest.raises(StoreError, match="CROSSSLOT"):
        await store.call(PAIR, keys, [])


async def test_one_known_node_is_enough_to_find_the_cluster(cluster: Cluster) -> None:
    async with opened(hasty(f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster.nodes[2].port}")) as store:
        assert store.available
        assert await attempt(store, key_of(cluster, cluster.nodes[0])) != "cluster"


async def test_a_single_store_is_no_cluster(settled_sentinel: SentinelGroup) -> None:
    with pytest.raises(StoreError, match="cluster support disabled"):
        await Store.open(hasty(f"redis+cluster://127.0.0.1:{settled_sentinel.primary.port}"))


async def test_a_slot_that_is_moving_is_followed_while_it_moves_and_after(store: Store, cluster: Cluster) -> None:
    source, target = cluster.nodes[0], cluster.nodes[1]
    key = key_of(cluster, source)
    slot = key_slot(key.encode())
    target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.node_id(source))
    source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.node_id(target))
    tag = key.partition(":")[0]
    unknown_there = Script.of("fresh", "return {redis.call('INCR', KEYS[1])}")
    assert await store.call(unknown_there, [f"{tag}:new"], []) == [1]  # ASK, then NOSCRIPT, then ASK's script is known
    assert await asyncio.gather(*(store.call(COUNT, [f"{tag}:new"], [1]) for _ in range(5))) == [2, 3, 4, 5, 6]
    source.run("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    for node in (target, source, cluster.nodes[2]):
        node.run("CLUSTER", "SETSLOT", slot, "NODE", cluster.node_id(target))
    assert await asyncio.gather(*(store.call(COUNT, [f"{tag}:new"], [1]) for _ in range(5))) == [7, 8, 9, 10, 11]
    assert store.available
    assert target.run("GET", f"{tag}:new") == b"11"


async def test_a_slot_that_moves_to_a_node_not_seen_before_is_followed() -> None:
    with valkey_cluster(spares=1) as cluster:
        async with opened(hasty(cluster.url)) as store:
            source, spare = cluster.nodes[0], cluster.nodes[3]
            key = key_of(cluster, source)
            slot = key_slot(key.encode())
            for node in (spare, source):
                node.run("CLUSTER", "SETSLOT", slot, "NODE", cluster.node_id(spare))
            assert await asyncio.gather(*(store.call(COUNT, [key], [1]) for _ in range(5))) == [1, 2, 3, 4, 5]
            assert spare.run("GET", key) == b"5"


async def test_a_node_that_is_down_fails_the_calls_for_its_slots_alone() -> None:
    with valkey_cluster() as cluster:
        async with opened(hasty(cluster.url)) as store:
            victim, survivor, other = cluster.nodes
            lost, kept = key_of(cluster, victim), key_of(cluster, survivor)
            victim.pause()
            assert await attempt(store, lost) == "timeout"
            assert not store.available
            assert store.call(COUNT, [lost], [1]).done()
            assert [await attempt(store, kept) for _ in range(3)] == [1, 2, 3]
            assert await attempt(store, key_of(cluster, other)) == 1
            victim.resume()
            await wait_until(lambda: store.available)
            assert isinstance(await attempt(store, lost), int)


@pytest.mark.parametrize("how", ["killed", "planned"])
async def test_a_replica_that_takes_over_is_found(how: str) -> None:
    with valkey_cluster(replicas=1) as cluster:
        async with opened(hasty(cluster.url)) as store:
            primary, replica = cluster.nodes[0], cluster.nodes[3]
            key = key_of(cluster, primary)
            assert await attempt(store, key) == 1
            await wait_until(lambda: replica.run("DBSIZE") == 1)
            if how == "killed":
                primary.kill()
                await wait_until(lambda: not store.available)
            else:
                replica.run("CLUSTER", "FAILOVER")
                await wait_until(lambda: replica.run("ROLE")[0] == b"master")
                assert await attempt(store, key) == 2  # MOVED: followed within the call
            await wait_until(lambda: store.available)
            assert isinstance(await attempt(store, key), int)
            assert int(replica.run("GET", key)) >= 2


async def test_a_cluster_that_is_down_at_the_start_is_found_when_it_comes(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.pause()
    async with opened(hasty(cluster.url)) as store:
        assert not store.available
        assert store.call(COUNT, ["n"], [1]).done()
        for node in cluster.nodes:
            node.resume()
        await wait_until(lambda: store.available)
