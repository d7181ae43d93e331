"""`python -m tests.simulation SEED [--count N] [--faults NAME,NAME]`: runs schedules; one alone is told step by step.

The exit code is 1 if something happened that must never happen.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.simulation.faults import FAULTS
from tests.simulation.nodes import Wire
from tests.simulation.schedules import replay, run, working_directory
from tests.support.servers import valkey_server


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("seed", type=int)
    parser.add_argument("--count", type=int, default=1, help="so many seeds, from this one on")
    parser.add_argument("--faults", default=",".join(FAULTS), help="only these")
    asked = parser.parse_args()
    only, tell = asked.faults.split(","), _tell if asked.count == 1 else None
    wrong, began_s = 0, time.perf_counter()
    with (
        valkey_server() as server,
        contextlib.closing(Wire(server.socket_path)) as wire,
        working_directory() as directory,
    ):
        for seed in range(asked.seed, asked.seed + asked.count):
            wrong += _is_wrong(seed, wire, directory, only, tell)
    each_ms = (time.perf_counter() - began_s) * 1000 / asked.count
    _tell(f"{wrong} of {asked.count} schedules went wrong; {each_ms:.0f} ms each")
    return 1 if wrong else 0


def _is_wrong(seed: int, wire: Wire, directory: Path, only: list[str], tell: Callable[[str], None] | None) -> bool:
    try:
        result = run(seed, wire, directory, only=only, tell=tell)
    except Exception as error:  # noqa: BLE001 - whatever it is, the seed is what a developer needs
        first, *_ = str(error).splitlines() or [""]
        _tell(f"{type(error).__name__}: {first}\n    {replay(seed, only)}")
        return True
    if tell is not None:
        _tell(str(result))
    return False


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
