"""What the simulation has found, step by step: each of these once broke a promise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation.nodes import Errors, Wire
from tests.simulation.scene import Plan, Scene, opened, quiet_logs
from tests.simulation.schedules import check, small_rules
from tests.simulation.world import World

PLAN = Plan(team=0, end_user="ada", amount=10, cost=7, kind="settle", lasts_s=0.01, leaves_s=None)


@pytest.fixture
def limits() -> dict[str, int]:
    """The limits of the team."""
    return {"concurrency": 1}


@pytest.fixture
def scene(wire: Wire, directory: Path, limits: dict[str, int]) -> Iterator[Scene]:
    """One gateway, and a team with one slot."""
    world = World(1)
    quiet_logs()
    with world.in_force():
        scene = opened(world, wire, directory, small_rules(), [{"credits": 100, **limits}])
        scene.start_gateway(0)
        world.run(world.now_s + 0.05)
        yield scene
        for gateway in scene.living():
            gateway.kill()


def test_an_admission_that_runs_behind_its_void_keeps_no_slot(scene: Scene) -> None:
    world, [link] = scene.world, scene.network.links
    link.lose(after_s=0.01, late_s=0.08)
    scene.begin(PLAN)
    world.run(world.now_s + 0.06)
    assert scene.model.refusals == {"store_unavailable": 1}, "its client has its answer"
    assert not scene.peek(), "the admission is still on its way, and its void has been there"
    world.run(world.now_s + 0.03)
    assert scene.peek(), "the admission ran, and nobody waits for it"
    world.run(world.now_s + 0.05)
    assert not scene.peek()


def test_a_worker_that_was_taken_for_dead_keeps_the_holds_that_it_got_back(scene: Scene) -> None:
    world, [silent] = scene.world, scene.gateways
    other = scene.start_gateway(1)
    scene.begin_at(silent, replace(PLAN, lasts_s=3.0))
    world.run(world.now_s + 0.1)
    assert scene.peek()
    # The other one learns that the lease has ended, and can give nothing back before the silent one is there again.
    scene.node.errors.append(Errors(b"-TRYAGAIN\r\n", frozenset({"reclaim_v2"}), 1.0, world.now_s + 1.3))
    silent.loop.stop_until(world.now_s + 1.1)
    world.run(world.now_s + 1.9)
    assert other.ledger is not None
    assert silent.ledger is not None
    assert silent.ledger.open_holds == 1
    assert scene.peek(), "it runs, and its hold is there"


@pytest.mark.parametrize(
    "limits",
    [
        {"end_user.concurrency": 1, "end_user.budget_usd_7d": 30},
        {"end_user.concurrency": 1, "end_user.budget_usd_7d": 30, "by_key": 1},
        {"concurrency": 1, "by_pattern": 1},
    ],
    ids=["of an end user", "of an end user by the key", "of some models"],
)
def test_a_request_whose_admission_a_failover_has_lost_keeps_its_slot(scene: Scene, limits: dict[str, int]) -> None:
    """The limit's counter was lost with it. The request got its hold back, and no other one may run beside it."""
    world, [gateway] = scene.world, scene.gateways
    scene.begin_at(gateway, replace(PLAN, lasts_s=3.0))
    world.run(world.now_s + 0.1)
    scene.fail_over(scene.founded)
    assert not scene.peek()
    world.run(world.now_s + 1.0)
    assert scene.peek(), "it has its hold again"
    scene.begin_at(gateway, PLAN)
    world.run(world.now_s + 0.1)
    assert scene.model.refusals == {"concurrency_exceeded": 1}
    world.run(world.now_s + 3.0)
    assert scene.unrest() == ""
    check(scene)
    scene.begin_at(gateway, PLAN)
    world.run(world.now_s + 0.1)
    assert scene.model.refusals.total() == 1, "its slot is free again"
    check(scene)
