"""What takes part in one schedule: gateways, a store, the network between them, teams, and the model that watches.

A fault (faults.py) changes the scene while requests run in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import structlog

from gateway.accounts.accounts import CREATE_KEY, CREATE_TEAM
from gateway.accounts.credits import CREDIT
from gateway.accounts.entities import Changes, Lot
from gateway.accounts.records import flat
from gateway.accounts.rules import rule_fields
from gateway.billing.hold import FREE
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger.admissions import AdmissionRequest
from gateway.ledger.refusals import Demand
from gateway.store.keyspace import TEAMS, TeamKeys
from tests.simulation.gateways import Gateway, Rules
from tests.simulation.model import EndUserLimits, Model, Request
from tests.simulation.network import Network
from tests.simulation.nodes import SCRIPTS, Node, Wire, encoded, pack
from tests.simulation.world import World
from tests.support.ledgers import DAY_S, settled, voided

STORE: Final = "192.0.2.1"
"""The address at which the store's primary is found."""
EACH: Final = ("end_user.concurrency", "end_user.budget_usd_7d")
"""The limits of each end user, in the order of `EndUserLimits`."""
_SECRET: Final = hashlib.sha256(b"secret").hexdigest()


@dataclass(frozen=True)
class Plan:
    """A request as its client means it. `leaves_s`: its client leaves then, whatever has come of it."""

    team: int
    end_user: str
    amount: int
    cost: int
    kind: Literal["settle", "void"]
    lasts_s: float
    leaves_s: float | None


@dataclass
class Scene:
    """Mutable: everything that takes part."""

    world: World
    wire: Wire
    directory: Path
    rules: Rules
    model: Model
    network: Network
    node: Node
    keys: list[ApiKey]
    chance_of_users: random.Random  # by itself, so that schedules without limits of end users stay the same
    founded: int  # how much of the log made the teams: an admin's work, which is not lost here
    gateways: list[Gateway] = field(default_factory=list)
    databases: int = 1
    lost: set[str] = field(default_factory=set)  # ids of settlements that a node had and its successor has not
    calm_at_s: float = 0.0  # when the last fault is over
    running: list[asyncio.Task[None]] = field(default_factory=list)

    # gateways

    def serving(self) -> list[Gateway]:
        return [gateway for gateway in self.gateways if gateway.serves]

    def living(self) -> list[Gateway]:
        return [gateway for gateway in self.gateways if gateway.lives]

    def start_gateway(self, place: int, lost: tuple[str, ...] = ()) -> Gateway:
        """Starts a gateway whose data directory is that of this place."""
        directory = self.directory / str(place)
        name = f"{place}{chr(ord('a') + len(self.gateways))}"
        gateway = Gateway(self.world, self.network, name, directory, self.rules, lost)
        self.gateways.append(gateway)
        gateway.start()
        return gateway

    def kill_gateway(self, gateway: Gateway) -> None:
        """`kill -9`. What it had promised is what the store or its disk has."""
        on_disk = gateway.spooled()
        for request in self._requests_of(gateway):
            self.model.killed(request, on_disk=request.id in on_disk)
        gateway.kill()

    def _requests_of(self, gateway: Gateway) -> Iterator[Request]:
        return (one for one in self.model.requests.values() if one.gateway == gateway.name)

    # requests

    def begin(self, plan: Plan) -> None:
        """A request comes to any of the gateways that serve."""
        serving = self.serving()
        if not serving:
            return
        self.begin_at(self.world.random.choice(serving), plan)

    def begin_at(self, gateway: Gateway, plan: Plan) -> None:
        """A request comes to this gateway."""
        task = gateway.spawn(self._request(gateway, plan))
        self.running.append(task)
        if plan.leaves_s is not None:
            self.world.after(plan.leaves_s, lambda: None if gateway.loop.dead else task.cancel())

    async def _request(self, gateway: Gateway, plan: Plan) -> None:
        assert gateway.ledger is not None
        key, ledger = self.keys[plan.team], gateway.ledger
        request = Request(ledger.new_request_id(), key.team_id, plan.end_user, gateway.name, plan.amount)
        self.model.asked(request)
        demand = Demand("p/m", plan.amount, 1, 1, FREE)
        asked = AdmissionRequest(request.id, key, ("p/m", "p/*", "*"), demand, None, end_user=plan.end_user)
        try:
            admission = await ledger.admit(asked)
        except GatewayError as error:
            self.model.refused(request, error.code)
            return
        self.model.admitted(request)
        self.world.note(f"{request.id} runs at {gateway.name}")
        kind: Literal["settle", "void"] = plan.kind
        try:
            await asyncio.sleep(plan.lasts_s)  # simulated: the stream
        except asyncio.CancelledError:
            kind = "settle"  # what was served until then
        self.model.ends(request, kind, plan.cost if kind == "settle" else 0)
        hold = admission.hold
        done = ledger.settle(settled(hold, plan.cost) if kind == "settle" else voided(hold))
        try:
            posted = await done
        finally:  # a cancellation takes no settlement back
            self.world.note(f"{request.id} ends at {gateway.name}: {kind} {request.cost}")
        if posted is not None:
            self.model.promise(request)

    # the store

    def fail_over(self, place: int) -> Node:
        """Another server answers at the store's address, which had received so much of the log."""
        old = self.node
        old.refuses = True
        self.network.cut_all(old)
        for packed in old.log[place:]:
            self.lost.update(id_ for id_ in self.model.requests if id_.encode() in packed)
        self.model.holds_are_back(self.lost)
        new = old.copy_at(place, self.databases, f"{old.name}'")
        self.databases += 1
        self.node = self.network.routes[STORE] = new
        return new

    def peek(self) -> bool:
        """Whether the store holds anything for anybody."""
        commands = [pack("HLEN", TeamKeys(key.team_id).held) for key in self.keys]
        return any(self.wire.batch(self.node.db, commands))

    def unrest(self) -> str:
        """What is left to be done, or nothing."""
        if any(not task.done() and not task.get_loop().is_closed() for task in self.running):
            return "requests run"
        for gateway in self.living():
            if problem := gateway.unrest():
                return f"gateway {gateway.name}: {problem}"
        if not self.living():
            return "no gateway lives"
        if left := [path.name for path in self.directory.glob("*/*.spool")]:
            return f"nobody replays {', '.join(left)}"
        return "the store holds something" if self.peek() else ""


def opened(world: World, wire: Wire, directory: Path, rules: Rules, teams: list[dict[str, int]]) -> Scene:
    """A scene with a store in which these teams are: their limits, their credits, and how many of these are `expiring`.

    These expire after so many ms as `expires_in_ms` says. With `by_key` the limits of each end user are the key's, and
    with `by_pattern` the limit of concurrency is one for some models.
    """
    node = Node(world, wire, 0, "store")
    network = Network(world, {STORE: node})
    wire.batch(0, [pack("FLUSHDB", "SYNC")])
    node.loaded.update(script.sha for script in SCRIPTS)
    keys, granted, slots, each, lots = [], {}, {}, {}, {}
    for number, limits in enumerate(teams):
        lot = Lot(world.now_ms + limits.get("expires_in_ms", 0), limits.get("expiring", 0))
        key = _new_team(node, number, limits, lot)
        keys.append(key)
        lots[key.team_id] = lot
        granted[key.team_id] = limits["credits"]
        slots[key.team_id] = limits.get("concurrency")
        each[key.team_id] = EndUserLimits(*map(limits.get, EACH))
    model = Model(world, granted, slots, each, lots, last_end_s=world.now_s)
    chance = random.Random(f"end users of {world.seed}")  # noqa: S311 - a schedule must be repeatable
    return Scene(world, wire, directory, rules, model, network, node, keys, chance, len(node.log))


def _new_team(node: Node, number: int, limits: dict[str, int], lot: Lot) -> ApiKey:
    """A team with a key, made by the scripts that accounts use."""
    team_id, key_id = f"team{number:012d}", f"key{number:013d}"
    names = TeamKeys(team_id)
    day_ms = str(DAY_S * 1000)
    fields = ["status", "active", "metered", "1", "name", team_id]
    of_team: dict[str, int | None] = {}
    if "concurrency" in limits:
        of_team["concurrency@p/*" if limits.get("by_pattern") else "concurrency"] = limits["concurrency"]
    each: dict[str, int | None] = {name: limits[name] for name in EACH if name in limits}
    by_key = limits.get("by_key", 0)
    fields += _fields_of(of_team if by_key else of_team | each)
    first = ["", str(limits["credits"] - lot.available), "grant", "first credits", day_ms, day_ms]
    second = ["grant", str(lot.available), "second", "", str(10**9), day_ms, day_ms, str(lot.expires_ms), "32"]
    secret = ["status", "active", "name", key_id, f"s:{_SECRET}", "0", *_fields_of(each if by_key else {})]
    calls = [
        (CREATE_TEAM, [names.team, names.state, names.journal, names.grant("first")], [*first, *fields]),
        (CREATE_KEY, [names.key(key_id), names.keys, names.team], [key_id, "", *secret]),
    ]
    if lot.available:
        calls.append((CREDIT, [names.team, names.state, names.journal, names.grant("second")], second))
    for script, keys, args in calls:
        words = [b"EVALSHA", script.sha.encode(), b"%d" % len(keys), *(word.encode() for word in (*keys, *args))]
        reply = encoded(node.execute(words))
        assert reply.startswith((b":1\r\n", b"*5\r\n:1\r\n")), reply
    node.execute([b"ZADD", TEAMS.encode(), b"%d" % number, team_id.encode()])
    return ApiKey(team_id, key_id, _SECRET)


def _fields_of(limits: dict[str, int | None]) -> list[str]:
    changes = Changes(limits=limits)
    return flat({**changes.fields(), **rule_fields(None, changes)})


def quiet_logs() -> None:
    """Nobody reads the logs of ten thousand schedules."""
    structlog.configure(processors=[_dropped], cache_logger_on_first_use=False)


def _dropped(logger: object, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    raise structlog.DropEvent
