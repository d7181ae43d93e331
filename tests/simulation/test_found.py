"""What the simulation has found, step by step: each of these once broke a promise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation.nodes import Errors, Wire
from tests.simulation.scene import Plan, Scene, opened, quiet_logs
from tests.simulation.schedules import small_rules
from tests.simulation.world import World

PLAN = Plan(team=0, amount=10, cost=7, kind="settle", lasts_s=0.01, leaves_s=None)


@pytest.fixture
def scene(wire: Wire, directory: Path) -> Iterator[Scene]:
    """One gateway, and a team with one slot."""
    world = World(1)
    quiet_logs()
    with world.in_force():
        scene = opened(world, wire, directory, small_rules(), [{"credits": 100, "concurrency": 1}])
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
