"""Simulated nodes of a store. Each is a database of one real Valkey, so that the real Lua runs on real data.

    wire = Wire(path)             a blocking connection to the real server
    node = Node(world, wire, db)  a server with a clock, a log and faults of its own
    node.execute(words)           one command -> its reply, which is read when it is needed
    node.copy_at(place, db)       what a replica that had received the log up to a place serves after a failover

The log is replication: a script does the same again, because its time is an argument.
"""

from __future__ import annotations

import re
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import hiredis

from gateway.accounts.accounts import CREATE_KEY, CREATE_TEAM
from gateway.accounts.credits import CREDIT
from gateway.ledger.admission_call import ADMIT
from gateway.ledger.hold_expiry import EXPIRE, RECLAIM, RENEW, RESTORE
from gateway.ledger.settlement_call import SETTLE
from gateway.ledger.upkeep import LEASE
from tests.simulation.scripted_time import scripted, sha
from tests.simulation.world import World

Words = list[bytes]
_NAME: Final = re.compile(rb"-- (\w+):")
_SET: Final = b"return redis.call('SET', KEYS[1], unpack(ARGV))"
SCRIPTS: Final = (CREATE_TEAM, CREATE_KEY, CREDIT, ADMIT, SETTLE, RENEW, EXPIRE, RECLAIM, RESTORE, LEASE)
_READS: Final = frozenset(
    {b"EXISTS", b"GET", b"HGET", b"HGETALL", b"HLEN", b"HMGET", b"HSCAN", b"PING", b"XRANGE", b"XLEN", b"ZRANGE"}
    | {b"ZRANGEBYSCORE", b"ZSCORE", b"SETRANGE"}
)


def pack(*words: str | bytes | int) -> bytes:
    """A command as it is sent."""
    return hiredis.pack_command(words)  # type: ignore[arg-type,no-any-return]  # its stub expects a tuple of one


class Reply:
    """The reply to one command, which may not have come yet."""

    __slots__ = ("_value", "_wire")

    def __init__(self, wire: Wire) -> None:
        self._wire: Wire | None = wire
        self._value: Any = None

    @property
    def value(self) -> Any:
        """The parsed reply, once it is there."""
        while self._wire is not None:
            self._wire.read()
        return self._value

    def came(self, value: Any) -> None:
        self._wire, self._value = None, value


class Wire:
    """A connection to the real server. What is sent waits until the first reply is needed, which saves turns of both.

    Mutable: the database at hand, what is on its way, and the scripts that the server knows.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._reader = hiredis.Reader()
        self._db = 0
        self._unsent: list[bytes] = []
        self._awaited: deque[Reply] = deque()
        self._real: dict[str, str] = {}  # the gateway's name of a script -> that of the script with the shim
        self.names: dict[str, str] = {}
        self.learn(_SET)
        for script in SCRIPTS:
            self.learn(script.source.encode())

    def close(self) -> None:
        self._socket.close()

    def learn(self, source: bytes) -> str:
        """Makes the server know a script of the gateway; returns the name under which the gateway calls it."""
        name = sha(source)
        if name not in self._real:
            [reply] = self.batch(self._db, [pack("SCRIPT", "LOAD", scripted(source))])
            self._real[name] = reply.decode()
            found = _NAME.search(source)
            self.names[name] = found[1].decode() if found else "?"
        return name

    def real(self, name: str) -> str:
        """The name under which the server knows a script."""
        return self._real[name]

    def send(self, db: int, command: bytes) -> Reply:
        """Runs one command in a database, after all that were sent before."""
        if db != self._db:
            self._db = db
            self._put(pack("SELECT", db))
        return self._put(command)

    def batch(self, db: int, commands: list[bytes]) -> list[Any]:
        """Runs commands that must not fail; returns the parsed replies."""
        replies = [self.send(db, command) for command in commands]
        for reply in replies:
            assert not isinstance(reply.value, hiredis.ReplyError), reply.value
        return [reply.value for reply in replies]

    def read(self) -> None:
        """Reads replies, at least one."""
        if self._unsent:
            self._socket.sendall(b"".join(self._unsent))
            self._unsent.clear()
        while (reply := self._reader.gets()) is False:
            data = self._socket.recv(1 << 20)
            assert data, "the server has ended"
            self._reader.feed(data)
        self._awaited.popleft().came(reply)

    def _put(self, command: bytes) -> Reply:
        self._unsent.append(command)
        reply = Reply(self)
        self._awaited.append(reply)
        return reply


def encoded(reply: Reply | bytes) -> bytes:
    """A reply as a server sends it."""
    return reply if isinstance(reply, bytes) else _encoded(reply.value)


def _encoded(value: Any) -> bytes:
    if isinstance(value, bytes):
        return b"$%d\r\n%s\r\n" % (len(value), value)
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, list):
        return b"*%d\r\n%s" % (len(value), b"".join(map(_encoded, value)))
    if value is None:
        return b"$-1\r\n"
    return b"-%s\r\n" % str(value).encode()


@dataclass
class Errors:
    """Error replies instead of execution: for these scripts (none: for all), with this probability, until then."""

    reply: bytes
    scripts: frozenset[str]
    probability: float
    until_s: float


@dataclass
class Node:
    """A server of the store.

    Mutable: its log of all calls that may write, and its faults. `ahead_ms`: its clock against the true time.
    `stands_still_until_s`: it runs nothing until then. `refuses`: it takes no connections. `reported`: offsets that its
    replicas have reported, or none where it has none.
    """

    world: World
    wire: Wire
    db: int
    name: str
    ahead_ms: int = 0
    stands_still_until_s: float = 0.0
    refuses: bool = False
    demoted: bool = False
    errors: list[Errors] = field(default_factory=list)
    loaded: set[str] = field(default_factory=set)
    log: list[bytes] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    replica_at: Callable[[], int] | None = None
    on_command: Callable[[str, Words], bool] | None = None

    @property
    def now_ms(self) -> int:
        return self.world.now_ms + self.ahead_ms

    def called(self, words: Words) -> str:
        """The name of the script that a command runs, or the command."""
        return self.wire.names.get(words[1].decode(), "?") if words[0] == b"EVALSHA" else words[0].decode()

    def execute(self, words: Words) -> Reply | bytes:
        """Runs one command; returns its reply, or what is sent instead."""
        command = words[0]
        if said := self._error(words) or self._of_the_node(words):
            return said
        if command == b"EVALSHA":
            name = words[1].decode()
            if name not in self.loaded:
                return b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
            return self._run(pack(command, self.wire.real(name), *words[2:], self.now_ms))
        if command == b"SET":
            name = self.wire.learn(_SET)
            return self._run(pack(b"EVALSHA", self.wire.real(name), 1, *words[1:], self.now_ms))
        return self.wire.send(self.db, pack(*words)) if command in _READS else self._run(pack(*words))

    def _of_the_node(self, words: Words) -> bytes:
        """The reply to a command that is about the server, or nothing."""
        match words[0]:
            case b"SCRIPT":
                name = self.wire.learn(words[2])
                self.loaded.add(name)
                return b"$40\r\n%s\r\n" % name.encode()
            case b"TIME":
                seconds, ms = divmod(self.now_ms, 1000)
                return b"*2\r\n" + b"".join(b"$%d\r\n%d\r\n" % (len(str(one)), one) for one in (seconds, ms * 1000))
            case b"ROLE":
                return self._role()
            case b"WAIT":
                return b":0\r\n" if self.replica_at is None else b":1\r\n"
            case b"CLIENT" | b"AUTH" | b"SELECT" | b"ASKING":
                return b"+OK\r\n"
        return b""

    def copy_at(self, place: int, db: int, name: str) -> Node:
        """A server that had received so much of the log."""
        copy = Node(self.world, self.wire, db, name, loaded=set(self.loaded))
        copy.log, copy.times_s = self.log[:place], self.times_s[:place]
        self.wire.batch(db, [pack("FLUSHDB", "SYNC"), *copy.log])
        return copy

    def _run(self, packed: bytes) -> Reply:
        self.log.append(packed)
        self.times_s.append(self.world.now_s)
        return self.wire.send(self.db, packed)

    def _error(self, words: Words) -> bytes:
        if self.demoted and words[0] in (b"EVALSHA", b"SET", b"SETRANGE"):
            return b"-READONLY You can't write against a read only replica.\r\n"
        if not self.errors:
            return b""
        now_s, called = self.world.now_s, self.called(words)
        self.errors = [rule for rule in self.errors if rule.until_s > now_s]
        for rule in self.errors:
            if (not rule.scripts or called in rule.scripts) and self.world.random.random() < rule.probability:
                return rule.reply
        return b""

    def _role(self) -> bytes:
        if self.demoted:
            return b"*5\r\n$5\r\nslave\r\n$9\r\n192.0.2.9\r\n:6379\r\n$9\r\nconnected\r\n:0\r\n"
        head = b"*3\r\n$6\r\nmaster\r\n:%d\r\n" % len(self.log)
        if self.replica_at is None:
            return head + b"*0\r\n"
        offset = b"%d" % self.replica_at()
        return head + b"*1\r\n*3\r\n$9\r\n192.0.2.9\r\n$4\r\n6379\r\n$%d\r\n%s\r\n" % (len(offset), offset)
