"""`python -m tests.support.mutants [--sample N] [--seed S] [part of a name]`: switches protections off, one at a time.

Each is switched off in a copy of the tree, its test is run there, and must fail. Survivors are named, and are the exit
code's 1. A sample is drawn by the seed, which is printed: CI draws it by the day.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.support.admin_protections import ADMIN_PROTECTIONS
from tests.support.attribution_protections import ATTRIBUTION_PROTECTIONS
from tests.support.credit_protections import CREDIT_PROTECTIONS
from tests.support.deploy_protections import DEPLOY_PROTECTIONS
from tests.support.form_protections import FORM_PROTECTIONS
from tests.support.growth_protections import GROWTH_PROTECTIONS
from tests.support.hold_protections import HOLD_PROTECTIONS
from tests.support.limit_protections import LIMIT_PROTECTIONS
from tests.support.notice_protections import NOTICE_PROTECTIONS
from tests.support.protections import PROTECTIONS, Protection
from tests.support.queue_protections import QUEUE_PROTECTIONS
from tests.support.response_protections import RESPONSE_PROTECTIONS
from tests.support.simulation_protections import SIMULATION_PROTECTIONS
from tests.support.state_protections import STATE_PROTECTIONS
from tests.support.wire_protections import WIRE_PROTECTIONS

ROOT: Final = Path(__file__).parents[2]
EVERY: Final = (
    *PROTECTIONS,
    *ADMIN_PROTECTIONS,
    *ATTRIBUTION_PROTECTIONS,
    *CREDIT_PROTECTIONS,
    *DEPLOY_PROTECTIONS,
    *FORM_PROTECTIONS,
    *GROWTH_PROTECTIONS,
    *HOLD_PROTECTIONS,
    *LIMIT_PROTECTIONS,
    *NOTICE_PROTECTIONS,
    *QUEUE_PROTECTIONS,
    *RESPONSE_PROTECTIONS,
    *SIMULATION_PROTECTIONS,
    *STATE_PROTECTIONS,
    *WIRE_PROTECTIONS,
)
TESTS_FAILED: Final = 1  # pytest's exit code; others mean that it could not run them
TIMEOUT_S: Final = 180
SCHEDULES: Final = "10000"  # of the simulation: 300 of each kind of fault


def copy_of_the_tree(directory: Path) -> Path:
    """What git knows or would take, without the rest."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
    return directory


def survives(protection: Protection, tree: Path) -> str:
    """Why this one survives: what its test said although the protection was off; "" where the test failed."""
    path = tree / protection.file
    source = path.read_text(encoding="utf-8")
    if source.count(protection.text) != 1:
        return f"its text stands {source.count(protection.text)} times in {protection.file}"
    path.write_text(source.replace(protection.text, protection.instead), encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", protection.test],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "SCHEDULES": SCHEDULES},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ""  # what hangs for so long is noticed
    finally:
        path.write_text(source, encoding="utf-8")
    last = (done.stdout.strip().splitlines() or [done.stderr.strip()])[-1]
    return "" if done.returncode == TESTS_FAILED else f"{protection.test}: {last}"


def main() -> int:
    """Returns 0 if no protection can be switched off without a test that fails."""
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("name", nargs="?", default="", help="only those with this in their name or file")
    parser.add_argument("--sample", type=int, default=len(EVERY), help="how many, drawn at random")
    parser.add_argument("--seed", default=dt.datetime.now(dt.UTC).date().isoformat())
    asked = parser.parse_args()
    chosen = [one for one in EVERY if asked.name in one.name or asked.name in one.file]
    if asked.sample < len(chosen):
        chosen = random.Random(asked.seed).sample(chosen, asked.sample)  # noqa: S311 - a sample of tests, no secret
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="gateway-mutants-") as directory:
        tree = copy_of_the_tree(Path(directory))
        for protection in chosen:
            began_s = time.monotonic()
            why = survives(protection, tree)
            survivors += bool(why)
            state = f"SURVIVES: {why}" if why else "a test misses it"
            sys.stdout.write(f"{time.monotonic() - began_s:5.1f} s  {protection.name}: {state}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen)} of {len(EVERY)} protections, seed {asked.seed}: {survivors} survive\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
