"""One schedule: everything that happens in it is drawn from its seed.

    run(seed, wire, directory)     raises Violation if something happened that must never happen
    replay(seed, only)             how to see it happen again
    check(scene)                   compares the books with the requests, once everything is quiet

The settings are small: what takes seconds in production takes tenths here, so that a schedule is short. Only the
intervals that are constants of the ledger are as long as ever.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.identity.api_keys import ApiKey
from gateway.store.keyspace import TeamKeys
from gateway.store.store import StoreSettings
from tests.simulation.faults import FAULTS, RECOVERS_S
from tests.simulation.gateways import Rules
from tests.simulation.model import Counted, Violation
from tests.simulation.nodes import Wire, pack
from tests.simulation.scene import EACH, STORE, Scene, opened, quiet_logs
from tests.simulation.workloads import SETTLES_IN_S, WORKLOADS
from tests.simulation.world import World
from tests.support.end_users import UNPACKED
from tests.support.journals import entry_fields
from tests.support.ledgers import Books, policy

_SLOTS: Final = (None, 1, 2, 2, 3)
_EXPIRING: Final = (None, None, 1, 2, 4)
"""One in so many of a team's credits expires."""
_SHARE_BY_PATTERN: Final = 0.25
"""Of so many teams the limit of concurrency is one for some models."""
_SHARE_OF_END_USERS: Final = 0.4
"""So many teams have limits of each end user."""
_SLOTS_OF_EACH: Final = (None, 1, 1, 2)
_BUDGETS_OF_EACH: Final = (None, None, 20, 40)
_OF_SLOTS, _OF_LAST_USD = 3, 6
"""Kinds of meters, as in scripts/meter_counting.lua."""
_QUIET_S: Final = 30.0
_CALM_S: Final = 1.5
_COLD_SHARE: Final = 0.2
"""Of so many schedules, the store knows no script at first."""
_LOOKS_EVERY_S: Final = 0.1


@dataclass(frozen=True)
class Result:
    """What a schedule has shown. `digest`: of all that happened, in its order. `calm_s`: how long after the last fault
    and the last request there was anything left to do.
    """

    seed: int
    faults: tuple[str, ...]
    requests: int
    simulated_s: float
    digest: int
    calm_s: float


def run(
    seed: int,
    wire: Wire,
    directory: Path,
    *,
    only: Sequence[str] = tuple(FAULTS),
    tell: Callable[[str], None] | None = None,
) -> Result:
    """Runs the schedule of a seed, with faults of `only`."""
    world = World(seed, tell)
    if tell is None:
        quiet_logs()
    shutil.rmtree(directory, ignore_errors=True)
    with world.in_force():
        scene = _drawn(world, wire, directory)
        faults = _planned(scene, only)
        try:
            calm_s = _run_until_quiet(scene)
            check(scene)
        finally:
            for gateway in scene.gateways:
                if not gateway.loop.dead:
                    gateway.kill()
    return Result(seed, faults, len(scene.model.requests), world.passed_s, world.digest, calm_s)


def replay(seed: int, only: Sequence[str] = tuple(FAULTS)) -> str:
    """The command that runs one schedule again, and tells what happens in it."""
    return f"python -m tests.simulation {seed}" + ("" if len(only) == len(FAULTS) else f" --faults {','.join(only)}")


def small_rules() -> Rules:
    """The settings of all schedules."""
    return Rules(
        policy(hold_ttl_s=1.5, lease_s=0.75),
        StoreSettings(f"redis://{STORE}:6379", timeout_s=0.1, connect_timeout_s=0.1, breaker_open_s=0.1),
    )


@contextlib.contextmanager
def working_directory() -> Iterator[Path]:
    """A directory for spools; in memory where the system has such a place, because each line is written with fsync."""
    memory = Path("/dev/shm")  # noqa: S108 - the directory below has a name of its own
    with tempfile.TemporaryDirectory(prefix="gateway-simulation-", dir=memory if memory.is_dir() else None) as name:
        yield Path(name) / "data"


def _drawn(world: World, wire: Wire, directory: Path) -> Scene:
    chance = world.random
    teams: list[dict[str, int]] = []
    for _ in range(chance.choice((1, 1, 2))):
        limits = {"credits": chance.choice((30, 60, 200))}
        if slots := chance.choice(_SLOTS):
            limits["concurrency"] = slots
        if share := chance.choice(_EXPIRING):
            limits |= {"expiring": limits["credits"] // share, "expires_in_ms": chance.randrange(50, 3000)}
        teams.append(limits | _more_limits(random.Random(f"team {len(teams)} of {world.seed}")))  # noqa: S311 - repeatable
    scene = opened(world, wire, directory, small_rules(), teams)
    if chance.random() < _COLD_SHARE:
        scene.node.loaded.clear()
    for place in range(chance.choice((1, 2, 2, 3))):
        scene.start_gateway(place)
    return scene


def _more_limits(chance: random.Random) -> dict[str, int]:
    """Limits of each end user for some teams. The requests of others are as many at once as without such limits."""
    found = {"by_pattern": 1} if chance.random() < _SHARE_BY_PATTERN else {}
    if chance.random() >= _SHARE_OF_END_USERS:
        return found
    found |= {"by_key": 1} if chance.random() < 0.5 else {}
    for name, values in zip(EACH, (_SLOTS_OF_EACH, _BUDGETS_OF_EACH), strict=True):
        if value := chance.choice(values):
            found[name] = value
    return found


def _planned(scene: Scene, only: Sequence[str]) -> tuple[str, ...]:
    """Plans faults, and requests before them, in their midst and right behind them."""
    world, chance = scene.world, scene.world.random
    span_s = chance.choice((0.1, 0.4, 1.2))
    workload = chance.choice(tuple(WORKLOADS.values()))
    moments = [0.0]
    names = tuple(chance.choice(only) for _ in range(chance.choice((0, 1, 1, 2, 2, 3))) if only)
    for name in names:
        fault = FAULTS[name]
        begins_s = SETTLES_IN_S + chance.random() * span_s
        lasts_s = fault.shortest_s + chance.random() ** 2 * (fault.longest_s - fault.shortest_s)
        world.after(begins_s, partial(_begin_fault, scene, name, lasts_s))
        moments += [begins_s, begins_s + lasts_s, begins_s + lasts_s + RECOVERS_S]
        scene.calm_at_s = max(scene.calm_at_s, world.now_s + begins_s + lasts_s)
    workload(scene, span_s, moments)
    return names


def _begin_fault(scene: Scene, name: str, lasts_s: float) -> None:
    scene.world.note(f"{name} for {lasts_s:.3f} s")
    FAULTS[name].begin(scene, lasts_s)


def _run_until_quiet(scene: Scene) -> float:
    world = scene.world
    world.run(world.now_s + 0.2)
    while True:
        world.run(world.now_s + _LOOKS_EVERY_S)
        _raise_what_requests_met(scene)
        if not (problem := scene.unrest()):
            since_s = world.now_s - max(scene.calm_at_s, scene.model.last_end_s)
            if since_s > _CALM_S:
                raise Violation(f"quiet no earlier than {since_s:.2f} s after the last fault and request")
            return since_s
        if world.passed_s > _QUIET_S:
            raise Violation(f"not quiet after {_QUIET_S:g} s: {problem}")


def _raise_what_requests_met(scene: Scene) -> None:
    for task in scene.running:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error


def check(scene: Scene) -> None:
    """Compares all books with the requests. Raises Violation."""
    killed = {gateway.name for gateway in scene.gateways if gateway.loop.dead and not gateway.ended}
    for request in scene.model.requests.values():
        if request.kind is not None and request.gateway not in killed:
            request.promised = True
        if request.id in scene.lost and killed:
            request.promised = False
    for key in scene.keys:
        found = _books(scene, key.team_id), _lots(scene, key.team_id), _end_users(scene, key), _slots(scene, key)
        scene.model.check(key.team_id, *found)


def _lots(scene: Scene, team_id: str) -> list[int]:
    unpacked = b"local w = redis.call('HGET', KEYS[1], 'lot_window') return w and w ~= '' and cmsgpack.unpack(w) or {}"
    [lots] = scene.wire.batch(scene.node.db, [pack("EVAL", unpacked, 1, TeamKeys(team_id).state)])
    return list(lots)


def _end_users(scene: Scene, key: ApiKey) -> dict[str, Counted]:
    """What the store has counted for each end user: scripts/end_users.lua, scripts/meter_counting.lua."""
    [flat] = scene.wire.batch(scene.node.db, [pack("EVAL", UNPACKED, 1, TeamKeys(key.team_id).end_users)])
    found = {}
    for field, entry in zip(flat[::2], flat[1::2], strict=True):
        _, running, meters = orjson.loads(entry)
        counts = {meter[0]: meter for meter in meters.values() if isinstance(meter, list)}
        slots, spent = counts.get(_OF_SLOTS, [0, 0])[1], sum(counts.get(_OF_LAST_USD, [0, 0, 0])[3:])
        found[field.decode().removeprefix(f"{key.key_id}:")] = Counted(running, slots, spent)
    return found


def _slots(scene: Scene, key: ApiKey) -> int:
    """How many slots of limits for some models are taken."""
    window = "local w = redis.call('HGET', KEYS[1], 'meter_window') return cjson.encode(w and cmsgpack.unpack(w) or {})"
    [text] = scene.wire.batch(scene.node.db, [pack("EVAL", window, 1, TeamKeys(key.team_id).state)])
    meters: Any = orjson.loads(text)
    return sum(meter[1] for meter in (meters.values() if meters else ()) if meter[0] == _OF_SLOTS)


def _books(scene: Scene, team_id: str) -> Books:
    names = TeamKeys(team_id)
    commands = [pack("HGETALL", names.state), pack("HGETALL", names.held), pack("ZRANGE", names.holds, 0, -1)]
    commands += [pack("XRANGE", names.journal, "-", "+"), pack("HGETALL", names.words)]
    state_raw, held_raw, holds_raw, journal_raw, words = scene.wire.batch(scene.node.db, commands)
    counted = dict(zip(state_raw[::2], state_raw[1::2], strict=True))
    state = {name.decode(): int(text) for name, text in counted.items() if not name.endswith(b"window")}
    return Books(
        granted=state.get("granted", 0),
        available=state.get("available", 0),
        held=state.get("held", 0),
        spent=state.get("spent", 0),
        holds={raw.decode() for raw in holds_raw},
        state=state,
        held_texts={name.decode(): text.decode() for name, text in zip(held_raw[::2], held_raw[1::2], strict=True)},
        journal=[entry_fields(fields, words) for _, fields in journal_raw],
    )
