"""Thousands of schedules: nothing is charged twice, lost, held for ever or beyond a limit, whatever goes wrong.

Each kind of fault by itself, and all kinds together. `make simulate` runs other seeds, and more of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from tests.simulation.faults import FAULTS
from tests.simulation.nodes import Wire
from tests.simulation.schedules import replay, run
from tests.support.effort import effort

pytestmark = pytest.mark.timeout(900)
FIRST_SEED: Final = int(os.environ.get("FIRST_SEED", "0"))
SCHEDULES: Final = int(os.environ.get("SCHEDULES", effort(2500)))
OF_EACH_KIND: Final = SCHEDULES * 3 // 100
SHARDS: Final = 16
OF_A_SHARD: Final = (SCHEDULES - OF_EACH_KIND * len(FAULTS)) // SHARDS
MANY: Final = 20_000


def run_all(seeds: range, wire: Wire, directory: Path, only: tuple[str, ...] = tuple(FAULTS)) -> None:
    for seed in seeds:
        try:
            run(seed, wire, directory, only=only)
        except Exception as error:
            error.add_note(f"seed {seed}; to see it again: {replay(seed, only)}")
            raise


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone_breaks_no_promise(fault: str, wire: Wire, directory: Path) -> None:
    run_all(range(FIRST_SEED, FIRST_SEED + OF_EACH_KIND), wire, directory, (fault,))


@pytest.mark.parametrize("shard", range(SHARDS))
def test_faults_together_break_no_promise(shard: int, wire: Wire, directory: Path) -> None:
    first = FIRST_SEED + shard * OF_A_SHARD
    run_all(range(first, first + OF_A_SHARD), wire, directory)


@pytest.mark.chaos
@pytest.mark.timeout(7200)
def test_many_more_schedules_break_no_promise(wire: Wire, directory: Path) -> None:
    first = int.from_bytes(os.urandom(4), "big")
    run_all(range(first, first + MANY), wire, directory)


def test_the_same_seed_gives_the_same_schedule(wire: Wire, directory: Path) -> None:
    for seed in range(40):
        assert run(seed, wire, directory) == run(seed, wire, directory)
