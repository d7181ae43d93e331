"""Which requests come in a schedule, and when. The moments are those at which faults begin and end.

mixed        short and long ones, before, in and right behind faults
full_house   some that run to the end and leave no room; each one that asks meanwhile must be refused
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Final

from gateway.protocol.attribution import NOBODY
from tests.simulation.scene import Plan, Scene

SETTLES_IN_S: Final = 0.1
"""Until then, a full house fills."""
END_USERS: Final = ("ada", "ada", "bo", NOBODY)
_PROBES_AT_A_MOMENT: Final = 2
_PROBES_BETWEEN: Final = 4


def mixed(scene: Scene, span_s: float, moments: Sequence[float]) -> None:
    chance = scene.world.random
    for _ in range(chance.randrange(4, 24)):
        at_s = chance.random() * span_s
        if chance.random() < 0.6:
            at_s = chance.choice(moments) + chance.choice((0.01, 0.1)) * chance.random()
        lasts_s = chance.random() * chance.choice((0.01, 0.1, 0.4, 2.0))
        if chance.random() < 0.4:
            lasts_s = max(0.0, chance.choice(moments) - at_s) + chance.random() * 0.2
        leaves_s = chance.random() * 0.1 if chance.random() < 0.1 else None
        _plan(scene, at_s, lasts_s, leaves_s)


def full_house(scene: Scene, span_s: float, moments: Sequence[float]) -> None:
    chance = scene.world.random
    end_s = max(span_s, *moments) + chance.choice((0.1, 0.5, 3.0)) * chance.random()
    for _ in range(6):
        at_s = chance.random() * SETTLES_IN_S / 2
        _plan(scene, at_s, end_s - at_s + chance.random() * 0.1, kind="settle")
    for moment in moments:
        for _ in range(_PROBES_AT_A_MOMENT):
            _plan(scene, moment + chance.choice((0.01, 0.1)) * chance.random(), 0.01)
    for _ in range(_PROBES_BETWEEN):
        _plan(scene, SETTLES_IN_S + chance.random() * (end_s - SETTLES_IN_S), 0.01)


Workload = Callable[[Scene, float, Sequence[float]], None]
WORKLOADS: Final[Mapping[str, Workload]] = MappingProxyType({"mixed": mixed, "full house": full_house})


def _plan(scene: Scene, at_s: float, lasts_s: float, leaves_s: float | None = None, kind: str = "") -> None:
    chance = scene.world.random
    end_user = scene.chance_of_users.choice(END_USERS)
    amount = chance.choice((5, 10, 10))
    plan = Plan(
        team=chance.randrange(len(scene.keys)),
        end_user=end_user,
        amount=amount,
        cost=chance.randrange(1, amount + 1),
        kind="void" if not kind and chance.random() < 0.15 else "settle",
        lasts_s=lasts_s,
        leaves_s=leaves_s,
    )
    scene.world.after(0.02 + at_s, partial(scene.begin, plan))
