"""The store: sends each call to the node that serves its keys, or fails it at once.

    closed breaker   the node has a connection in `_connections`, on which calls are sent
    open breaker     it has none, and `_faults` has the reason; calls fail at once, so that nothing piles up

A missed deadline, a lost connection, or a reply that the node accepts no writes opens the node's breaker. One task then
finds the primary, connects, and tries a write. It repeats this with growing, jittered pauses until every node accepts
writes. In a cluster, a node that is down fails only the calls for its slots. With Sentinels, the store asks them every
second which node is the primary, because after a planned failover the old one still accepts writes for some seconds,
which are lost.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import structlog
from redis.asyncio import Redis, RedisCluster

from gateway.concurrency.periodic import Periodic
from gateway.store.connection import Call, ConnectionSettings, StoreConnection, Word, open_connection, pack, pack_large
from gateway.store.errors import Redirect, StoreError, StoreUnavailable, is_forbidden
from gateway.store.script import Script
from gateway.store.topology import (
    Layout,
    discover_cluster,
    discover_primary,
    redis_client,
    sentinel_client,
    tls_context,
)
from gateway.store.url import Address, Mode, StoreUrl

__all__ = ["Store", "StoreError", "StoreSettings", "StoreUnavailable"]

_FIRST_PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """How to reach the store. For the forms of `url` see url.py."""

    url: str = field(repr=False)
    timeout_s: float = 0.5  # from a call's write to its reply
    connect_timeout_s: float = 1.0
    breaker_open_s: float = 1.0  # the longest pause between two attempts to reach a store that is down
    max_pending: int = 4096  # calls that wait for one node; further calls fail at once
    username: str | None = None  # this and the password take precedence over those in the URL
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None  # instead of the system's authorities, for rediss
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    client_name: str = "gateway"


class Store:
    """The gateway's store. Opened by `await Store.open(settings)`.

    `large_reads`: a lock that large reads take in turn, for one page of calls each. `periodics`: background work of the
    store itself; with Sentinels, it watches for a new primary. `redis`: a redis-py client for lists and exports,
    outside of a request's path, which raises redis-py's exceptions. `on_change` is called with `available` each time it
    changes. `epoch` counts the connections that were made. If it has changed, another server may answer now, or the
    same server with less data than it had acknowledged.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self.on_change: Callable[[bool], None] | None = None
        self.epoch = 0
        self.large_reads = asyncio.Lock()
        self._settings = settings
        self._url = url = _parsed(settings.url)
        self._connection_settings = ConnectionSettings(
            timeout_s=settings.timeout_s,
            connect_timeout_s=settings.connect_timeout_s,
            max_pending=settings.max_pending,
            username=settings.username or url.username,
            password=url.password if settings.password is None else settings.password,
            db=url.db,
            tls=tls_context(settings.ca_file) if url.tls else None,
            client_name=settings.client_name,
        )
        self._sentinel = sentinel_client(
            url, settings.sentinel_username, settings.sentinel_password, self._connection_settings, settings.ca_file
        )
        self._redis: Redis | RedisCluster | None = None
        self._loop = asyncio.get_running_loop()
        self._log = structlog.get_logger("gateway.store")
        # Mutable from here on: the layout, the open connections, and the faults of the other nodes.
        self._layout = Layout(url.addresses if url.mode is Mode.SINGLE else ())
        self.periodics: tuple[Periodic, ...] = ()
        self._connections: dict[Address, StoreConnection] = {}
        self._faults: dict[Address, StoreUnavailable] = {}
        self._discovery_fault: StoreUnavailable | None = None
        self._available = False
        self._closed = False
        self._parked: list[tuple[Call, Address]] = []  # redirected to a node without a connection
        self._recovery: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stale = False  # something has changed since the last attempt to restore
        self._attempts = 0
        self._recovered_at = float("-inf")

    @classmethod
    async def open(cls, settings: StoreSettings) -> Self:
        """Connects. If the store is down, it is opened as unavailable, and connected in the background.

        Raises StoreError if waiting cannot help: for an invalid URL, wrong credentials, or an unreadable CA file.
        """
        store = cls(settings)
        try:
            await store._restore()
        except StoreUnavailable as fault:
            if is_forbidden(fault.reason):
                await store.close()
                raise StoreError(fault.detail) from None
            store._start_recovery()
        except BaseException:
            await store.close()
            raise
        if store._sentinel is not None:
            every_s = settings.breaker_open_s
            watch = Periodic("watch-primary", every_s, store._watch_primary, outages=(StoreUnavailable,))
            store.periodics = (watch,)
            store._watch = store._loop.create_task(watch.run(), name=watch.name)
        return store

    @property
    def available(self) -> bool:
        """Whether there is a connected node for every key."""
        return self._available

    @property
    def timeout_s(self) -> float:
        """How long a reply is awaited.

        A call with a deadline runs within this time after it was sent, or not at all.
        """
        return self._settings.timeout_s

    @property
    def redis(self) -> Redis | RedisCluster:
        """A redis-py client of the same store. It is made at the first use."""
        if self._redis is None:
            self._redis = redis_client(self._url, self._connection_settings, self._settings.ca_file, self._sentinel)
        return self._redis

    @property
    def fault(self) -> StoreUnavailable | None:
        """Why the store is not available, or None."""
        if self._available:
            return None
        down = (self._faults[node] for node in self._layout.nodes if node in self._faults)
        return next(down, None) or self._discovery_fault or StoreUnavailable("connect", "not connected yet")

    def call(
        self, script: Script, keys: Sequence[str], args: Sequence[Word], *, is_large: bool = False
    ) -> asyncio.Future[Any]:
        """Runs a script on the node of its first key. All calls of one turn of the event loop are sent in one write.

        `is_large`: an argument may have megabytes.

        Raises nothing. The future's result is the script's reply (bytes, int, list, None). It fails with
        StoreUnavailable or StoreError.
        """
        try:
            packed = (pack_large if is_large else pack)((b"EVALSHA", script.sha, len(keys), *keys, *args))
        except TypeError as exc:
            return self._failed(StoreError(f"script {script.name}: {exc}"))
        return self._dispatch(keys[0] if keys else "", packed, script)

    def run(self, *command: Word, key: str | None = None) -> asyncio.Future[Any]:
        """Runs one command on the node of `key`, which by default is the command's second word. See `call`."""
        try:
            packed = pack(command)
        except TypeError as exc:
            return self._failed(StoreError(f"{command[0]!s}: {exc}"))
        if key is None:
            word = command[1] if len(command) > 1 else ""
            key = word.decode() if isinstance(word, bytes) else str(word)
        return self._dispatch(key, packed, None)

    def post(self, key: str, *command: Word) -> None:
        """Runs a command without waiting for its reply. It is written at once, unless the node is not connected."""
        node = self._layout.node_of(key)
        if node is not None and (connection := self._connections.get(node)) is not None:
            connection.post(pack(command))

    def run_by_ms(self, key: str, within_s: float | None = None) -> str:
        """Returns the deadline of a call sent now, by the clock of the key's node, or "" if not connected.

        It is the store's timeout away, or `within_s`.
        """
        node = self._layout.node_of(key)
        connection = self._connections.get(node) if node is not None else None
        return "" if connection is None else str(connection.run_by_ms(within_s))

    def note_clock(self, key: str, server_ms: int) -> None:
        """Notes a recent time of the clock of the key's node."""
        node = self._layout.node_of(key)
        if node is not None and (connection := self._connections.get(node)) is not None:
            connection.note_clock(server_ms)

    async def measure_clocks(self) -> None:
        """Asks every node for its time. Raises StoreUnavailable or StoreError."""
        await asyncio.gather(*(connection.measure_clock() for connection in list(self._connections.values())))

    @property
    def connected(self) -> tuple[Address, ...]:
        """The connected nodes."""
        return tuple(self._connections)

    async def run_on_nodes(self, *command: Word, script: Script | None = None) -> dict[Address, Any]:
        """Sends one command, or the EVALSHA of `script`, to every connected node, and returns the replies.

        Raises StoreUnavailable or StoreError.
        """
        nodes = list(self._connections)
        replies = await asyncio.gather(*(self._connections[node].send(pack(command), script) for node in nodes))
        return dict(zip(nodes, replies, strict=True))

    async def close(self) -> None:
        """Fails all pending calls, and closes every connection. Idempotent."""
        self._closed = True
        for task in (self._recovery, self._watch):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        for connection in list(self._connections.values()):
            connection.close()
        self._unpark(StoreUnavailable("closed"))
        if self._redis is not None:
            await self._redis.aclose()
        if self._sentinel is not None:
            await self._sentinel.aclose()

    # calls

    def _dispatch(self, key: str, packed: bytes, script: Script | None) -> asyncio.Future[Any]:
        node = self._layout.node_of(key)
        connection = self._connections.get(node) if node is not None else None
        if connection is not None:
            return connection.send(packed, script)
        fault = self._faults.get(node) if node is not None else None
        fault = fault or self.fault or StoreUnavailable("cluster", "no node serves this key")
        return self._failed(fault.copy())

    def _failed(self, fault: Exception) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        future.set_exception(fault)
        return future

    def _redirect(self, connection: StoreConnection, call: Call, redirect: Redirect) -> None:
        node = Address(redirect.host or connection.address.host, redirect.port)
        if not redirect.asking:
            if self._layout.slots:
                self._layout.slots[redirect.slot] = node
            self._start_recovery()
        call.asking = redirect.asking
        if (other := self._connections.get(node)) is not None:
            other.forward(call, asking=redirect.asking)
        elif self._attempts > 1 or len(self._parked) >= self._settings.max_pending:  # it will not be connected soon
            call.fail(StoreUnavailable("MOVED", f"to {node}, which is not connected"))
        else:
            self._parked.append((call, node))
            self._start_recovery()

    def _unpark(self, fault: StoreUnavailable) -> None:
        parked, self._parked = self._parked, []
        for call, node in parked:
            if (connection := self._connections.get(node)) is not None:
                connection.forward(call, asking=call.asking)
            else:
                call.fail(fault.copy())

    # the breaker

    def _down(self, connection: StoreConnection, fault: StoreUnavailable) -> None:
        if self._connections.get(connection.address) is connection:
            del self._connections[connection.address]
            self._faults[connection.address] = fault
            self._report()
            self._start_recovery()

    def _report(self) -> None:
        layout = self._layout
        available = layout.complete and all(node in self._connections for node in layout.nodes)
        if available != self._available:
            self._available = available
            if available:
                self._log.info("store_reached")
            elif not self._closed:
                self._log.warning("store_away", reason=str(self.fault))
            if self.on_change is not None:
                self.on_change(available)

    def _start_recovery(self) -> None:
        self._stale = True
        if self._recovery is None and not self._closed:
            if self._loop.time() - self._recovered_at > self._settings.breaker_open_s:
                self._attempts = 0  # otherwise the connection flaps, and the pauses continue to grow
            self._recovery = self._loop.create_task(self._recover(), name="store-recovery")

    async def _recover(self) -> None:
        # `close` cancels this task, but a library may turn the cancellation into an error of its own.
        while self._stale and not self._closed:
            if self._attempts:
                max_pause_s = min(self._settings.breaker_open_s, _FIRST_PAUSE_S * 2 ** min(self._attempts, 20))
                await asyncio.sleep(max_pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, keeps no secret
            self._attempts += 1
            self._stale = False
            try:
                await self._restore()
            except (
                StoreUnavailable,
                StoreError,
            ):  # the reason is in `_faults`; an operator may still correct the cause of a StoreError
                self._stale = True
            except Exception as exc:  # noqa: BLE001 - after any error the attempts must go on
                self._discovery_fault = StoreUnavailable("refused", repr(exc))
                self._stale = True
        self._recovered_at = self._loop.time()
        self._recovery = None

    async def _restore(self) -> None:
        """Makes one attempt to find the nodes and to connect to those without a connection. Raises the first fault."""
        try:
            layout = await self._discover()
        except (StoreUnavailable, StoreError) as exc:
            self._discovery_fault = _unavailable(exc)
            self._unpark(self._discovery_fault)
            raise
        self._layout, self._discovery_fault = layout, None
        needed = {*layout.nodes, *(node for _, node in self._parked)}
        for node in self._connections.keys() - needed:
            self._connections.pop(node).retire(StoreUnavailable("closed", f"{node} serves nothing any more"))
        for node in self._faults.keys() - needed:
            del self._faults[node]
        self._report()  # before the first await, because a new node is not connected yet
        missing = needed - self._connections.keys()
        faults = [fault for fault in await asyncio.gather(*map(self._connect_node, missing)) if fault is not None]
        self._unpark(StoreUnavailable("MOVED", "the named node is not connected"))
        self._report()
        if faults:
            raise faults[0]

    async def _watch_primary(self) -> None:
        """Starts a recovery if the primary has changed. If no Sentinel answers, raises StoreUnavailable."""
        if (await self._discover()).nodes != self._layout.nodes:
            self._start_recovery()

    async def _discover(self) -> Layout:
        if self._sentinel is not None:
            return await discover_primary(self._sentinel, self._url.primary_name)
        if self._url.mode is Mode.CLUSTER:
            seeds = (*self._layout.nodes, *self._url.addresses)
            return await discover_cluster(list(self._connections.values()), seeds, self._connection_settings)
        return self._layout

    async def _connect_node(self, node: Address) -> StoreUnavailable | StoreError | None:
        """Connects to a node, and closes its breaker if it accepts a write. Returns the fault, if any."""
        try:
            connection = await open_connection(node, self._connection_settings)
            try:
                await self._probe(connection)
            except BaseException:
                connection.close()
                raise
        except (StoreUnavailable, StoreError) as exc:
            self._faults[node] = _unavailable(exc)
            return exc
        connection.on_down, connection.on_redirect = self._down, self._redirect
        self._connections[node] = connection
        self.epoch += 1
        self._faults.pop(node, None)
        return None

    async def _probe(self, connection: StoreConnection) -> None:
        await connection.measure_clock()
        try:
            await connection.run(*self._layout.probe(connection.address))
        except StoreUnavailable as fault:
            if fault.reason != "ASK":  # a primary whose slot is being moved away
                raise
        if connection.fault is not None:
            raise connection.fault.copy()


def _parsed(url: str) -> StoreUrl:
    try:
        return StoreUrl.parse(url)
    except ValueError as exc:
        raise StoreError(f"store URL: {exc}") from None


def _unavailable(exc: StoreUnavailable | StoreError) -> StoreUnavailable:
    return exc if isinstance(exc, StoreUnavailable) else StoreUnavailable("refused", str(exc))
