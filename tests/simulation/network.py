"""The simulated network between gateways and nodes: it delays, cuts and swallows.

Bytes in one direction of a connection keep their order. What a client has sent is executed even where the client has
closed its end meanwhile, because it may lie in the server's socket. Only a connection that is cut loses what was on its
way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import hiredis

from tests.simulation.nodes import Node, Reply, Words, encoded
from tests.simulation.process_loop import ProcessLoop
from tests.simulation.world import World

_LATENCY_S: Final = 0.0002
_TOLD_BYTES: Final = 100
_GAP_SHARE: Final = 0.05
_MAX_GAP_S: Final = 0.005


class Link(asyncio.Transport):
    """One connection, as its client sees it. Mutable: both ends, and what is on its way."""

    def __init__(self, network: Network, loop: ProcessLoop, protocol: asyncio.Protocol, node: Node) -> None:
        super().__init__()
        self.node = node
        self.loop = loop
        self.is_cut = False
        self._network = network
        self._world = network.world
        self._protocol = protocol
        self._closed = False
        self._late_s = 0.0
        self._last_sent_s = 0.0
        self._last_answered_s = 0.0
        self._reader = hiredis.Reader()
        self._inbox: deque[Words] = deque()
        self._outbox: list[Reply | bytes] = []
        self._is_served = False

    # the client's end

    def write(self, data: Any) -> None:
        """Sends bytes to the node."""
        if self._closed or self.loop.dead:
            return
        sent = bytes(data)
        self._last_sent_s = self._network.arrival_s(self, self._last_sent_s) + self._late_s
        self._world.at(self._last_sent_s, lambda: self._arrive(sent))

    def close(self) -> None:
        """The client has nothing more to say."""
        if not self._closed:
            self._closed = True
            self.loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def pause_reading(self) -> None:
        """The reader of redis-py's streams never falls behind in a simulation."""

    def resume_reading(self) -> None:
        """The same."""

    def lose(self, after_s: float, late_s: float) -> None:
        """The client loses it after a while. What it sends until then arrives all the same, so much later."""
        self._late_s = late_s
        self._world.after(after_s, self._lost)

    def cut(self) -> None:
        """Both ends lose the connection, and what is on its way."""
        if not self.is_cut:
            self.is_cut = True
            self._inbox.clear()
            self._world.at(self._network.arrival_s(self, self._last_answered_s), self._lost)

    def _lost(self) -> None:
        if not self._closed and not self.loop.dead:
            self._closed = True
            self.loop.happen(self._protocol.connection_lost, ConnectionResetError("reset"))

    def _receive(self, data: bytes) -> None:
        if not self._closed and not self.is_cut and not self.loop.dead:
            self.loop.happen(self._deliver, data)

    def _deliver(self, data: bytes) -> None:
        if not self._closed:
            self._protocol.data_received(data)

    # the node's end

    def _arrive(self, data: bytes) -> None:
        if self.is_cut:
            return
        self._reader.feed(data)
        while (words := self._reader.gets()) is not False:
            self._inbox.append(words)
        if self._inbox and not self._is_served:
            self._is_served = True
            self._serve()

    def _serve(self) -> None:
        node, world = self.node, self._world
        while self._inbox and not self.is_cut:
            if world.now_s < node.stands_still_until_s:
                self._answer()
                world.at(node.stands_still_until_s, self._serve)
                return
            words = self._inbox.popleft()
            fate = self._network.fate(self, words)
            if fate == "cut before":
                self._answer()
                self.cut()
                break
            reply = node.execute(words)
            world.note(self._told(words, reply) if world.is_told else node.called(words))
            if fate == "cut after":
                self.cut()
                break
            self._outbox.append(reply)
            if self._inbox and world.random.random() < _GAP_SHARE:
                self._answer()
                world.after(world.random.random() * _MAX_GAP_S, self._serve)
                return
        self._answer()
        self._is_served = False

    def _told(self, words: Words, reply: Reply | bytes) -> str:
        who = self._network.names.get(self.loop, "?")
        return f"{self.node.name}: {self.node.called(words)} of {who} -> {encoded(reply)[:_TOLD_BYTES]!r}"

    def _answer(self) -> None:
        if not self._outbox:
            return
        replies, self._outbox = self._outbox, []
        first_s = last_s = self._network.arrival_s(self, self._last_answered_s)
        if self._world.random.random() < _GAP_SHARE:
            last_s = self._network.arrival_s(self, first_s)
        self._last_answered_s = last_s
        self._world.at(first_s, lambda: self._come(replies, last_s))

    def _come(self, replies: list[Reply | bytes], last_s: float) -> None:
        data = b"".join(map(encoded, replies))
        if last_s > self._world.now_s:  # in two pieces
            at = self._world.random.randrange(0, len(data))
            self._receive(data[:at])
            self._world.at(last_s, lambda: self._receive(data[at:]))
        else:
            self._receive(data)


@dataclass
class Network:
    """Who is where, and what is wrong between them.

    `routes`: who answers at an address. `silent_until_s`: of a process, nothing passes in either direction until then.
    `slow_until_s`, `slow_s`: how long messages may take.
    """

    world: World
    routes: dict[str, Node] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    silent_until_s: dict[ProcessLoop, float] = field(default_factory=dict)
    slow_until_s: float = 0.0
    slow_s: float = 0.0
    names: dict[ProcessLoop, str] = field(default_factory=dict)
    fates: list[Callable[[Link, Words], str]] = field(default_factory=list)

    async def connect(
        self, loop: ProcessLoop, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connects a process with whoever is at an address."""
        silent_s = max(0.0, self.silent_until_s.get(loop, 0.0) - self.world.now_s)
        await asyncio.sleep(silent_s + self._latency_s())  # simulated: the way there and back
        node = self.routes.get(host)
        if node is None or node.refuses:
            raise ConnectionRefusedError(f"nobody listens at {host}:{port}")
        protocol = factory()
        assert isinstance(protocol, asyncio.Protocol)
        link = Link(self, loop, protocol, node)
        self.links = [one for one in self.links if not one.is_cut]
        self.links.append(link)
        protocol.connection_made(link)
        return link, protocol

    def arrival_s(self, link: Link, behind_s: float) -> float:
        """When a message arrives that is sent now: behind the one before."""
        when_s = max(self.world.now_s, self.silent_until_s.get(link.loop, 0.0)) + self._latency_s()
        return max(when_s, behind_s + 1e-7)

    def fate(self, link: Link, words: Words) -> str:
        """What happens to a command: "" | "cut before" | "cut after" it is executed."""
        for one in self.fates:
            if said := one(link, words):
                return said
        return ""

    def cut_all(self, node: Node | None = None, loop: ProcessLoop | None = None) -> None:
        """Cuts the connections of a node, or of a process."""
        for link in self.links:
            if (node is None or link.node is node) and (loop is None or link.loop is loop):
                link.cut()

    def _latency_s(self) -> float:
        longest_s = self.slow_s if self.world.now_s < self.slow_until_s else _LATENCY_S
        return (0.2 + self.world.random.random()) * longest_s
