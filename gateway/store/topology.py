"""Finds the nodes of a store.

Layout            which node serves a key
discover_*        the layout according to the Sentinels, or to CLUSTER SLOTS
*_client          redis-py's client of the same store
"""

import contextlib
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError

from gateway.store.connection import ConnectionSettings, StoreConnection, Word, open_connection
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.url import Address, Mode, StoreUrl


@dataclass(slots=True)
class Layout:
    """Which node serves which slots.

    `slots` is empty unless the store is a cluster; a MOVED reply updates it in place.
    """

    nodes: tuple[Address, ...]
    slots: list[Address | None] = field(default_factory=list)

    def node_of(self, key: str) -> Address | None:
        """Returns the node that serves `key`, or None while no node does."""
        if self.slots:
            return self.slots[key_slot(key.encode())]
        return self.nodes[0] if self.nodes else None

    @property
    def complete(self) -> bool:
        """Whether every key has a node."""
        return bool(self.nodes) and None not in self.slots

    def probe(self, node: Address) -> tuple[Word, ...]:
        """Returns a command that shows whether `node` works: if the node serves any key, a write that changes nothing.

        It creates no key. A replica refuses it, and so does a primary that is loading, or lacks memory, disk space or
        replicas.
        """
        keys = (f"gw:{{probe-{number}}}" for number in count())
        if self.slots and node not in self.slots:
            return ("PING",)
        return ("SETRANGE", next(key for key in keys if self.node_of(key) == node), 0, b"")


def layout_of_slots(reply: Sequence[Sequence[object]], address: Address) -> Layout:
    """Parses CLUSTER SLOTS: `[[first, last, [host, port, id, ...], replicas...], ...]`.

    An empty or null host means the host that was asked (Redis: CLUSTER SLOTS, "preferred endpoint").
    """
    slots: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for row in reply:
        match row:
            case [int(first), int(last), [host, int(port), *_], *_]:
                name = host.decode() if isinstance(host, bytes) else ""
                node = Address(name or address.host, port)
                slots[first : last + 1] = [node] * (last - first + 1)
            case _:
                raise StoreUnavailable("cluster", f"{address}: CLUSTER SLOTS was not understood")
    nodes = tuple(dict.fromkeys(node for node in slots if node))
    if not nodes:
        raise StoreUnavailable("cluster", f"{address}: the cluster has no slots yet")
    return Layout(nodes, slots)


async def discover_primary(sentinel: Sentinel, name: str) -> Layout:
    """Asks the Sentinels for the primary. Raises StoreUnavailable if none of them knows one that is up."""
    try:
        host, port = await sentinel.discover_master(name)
    except (RedisError, OSError, TimeoutError, ValueError, KeyError) as exc:  # the last two: not a Sentinel's reply
        raise StoreUnavailable("sentinel", str(exc)) from exc
    return Layout((Address(str(host), int(port)),))


async def discover_cluster(
    connections: Iterable[StoreConnection], seeds: Iterable[Address], settings: ConnectionSettings
) -> Layout:
    """Asks the nodes of the open `connections`, then the `seeds`, until one answers.

    Raises StoreUnavailable if none does.
    """
    fault = StoreUnavailable("cluster", "no node answered")
    for connection in connections:
        try:
            return layout_of_slots(await connection.run("CLUSTER", "SLOTS"), connection.address)
        except StoreUnavailable as exc:
            fault = exc
    for seed in dict.fromkeys(seeds):
        try:
            connection = await open_connection(seed, settings)
            with contextlib.closing(connection):
                return layout_of_slots(await connection.run("CLUSTER", "SLOTS"), seed)
        except StoreUnavailable as exc:
            fault = exc
    raise fault


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Returns a TLS context that trusts the system's authorities, or only those in `ca_file`."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise StoreError(f"cannot read the store's CA file {ca_file}: {exc}") from exc


def sentinel_client(
    url: StoreUrl, username: str | None, password: str | None, settings: ConnectionSettings, ca_file: str | None
) -> Sentinel | None:
    """Returns redis-py's client of the Sentinels, which have their own credentials, or None without Sentinels."""
    if url.mode is not Mode.SENTINEL:
        return None
    options: dict[str, Any] = {
        "username": username,
        "password": password,
        "socket_timeout": settings.connect_timeout_s,
        "socket_connect_timeout": settings.connect_timeout_s,
        "retry": Retry(NoBackoff(), 0),  # the next Sentinel is the retry
    }
    if url.tls:
        options |= {"ssl": True, "ssl_ca_certs": ca_file}
    hosts = [(address.host, address.port) for address in url.addresses]
    return Sentinel(hosts, sentinel_kwargs=options)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped


def redis_client(
    url: StoreUrl, settings: ConnectionSettings, ca_file: str | None, sentinel: Sentinel | None
) -> Redis | RedisCluster:
    """Returns a redis-py client for the same store.

    It connects when it is used, with its own timeouts and one retry.
    """
    options: dict[str, Any] = {
        "username": settings.username,
        "password": settings.password,
        "client_name": settings.client_name,
        "socket_connect_timeout": settings.connect_timeout_s,
        "retry": Retry(NoBackoff(), 1),
    }
    if url.tls:
        options |= {"ssl": True, "ssl_ca_certs": ca_file}
    if url.mode is Mode.CLUSTER:
        return RedisCluster(startup_nodes=[ClusterNode(node.host, node.port) for node in url.addresses], **options)
    options["db"] = settings.db
    if sentinel is not None:
        primary: Redis = sentinel.master_for(url.primary_name, **options)
        return primary
    [node] = url.addresses
    if node.path:
        return Redis(unix_socket_path=node.path, **options)
    return Redis(host=node.host, port=node.port, **options)
