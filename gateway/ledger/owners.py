"""The owner of a hold: the beginning of a hold's id names the worker that made it.

owner_of(run, pid)   the name of a worker, which its supervisor can compute from its process id
new_owner()          the name of a worker without a supervisor
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

RUN_VARIABLE: Final = "GATEWAY_RUN"
"""The environment variable with the name of one run of a supervisor."""
LOST_VARIABLE: Final = "GATEWAY_LOST_WORKERS"
"""The environment variable with the process ids of workers of this run that have died, for the workers started later.
"""
_PREFIX: Final = "req_"
_DIGITS: Final = 8


def owner_of(run: str, pid: int) -> str:
    """Returns the name of the worker with this process id, in one run of a supervisor."""
    return _PREFIX + hashlib.sha256(f"{run}:{pid}".encode()).hexdigest()[:_DIGITS]


def new_owner() -> str:
    """Returns a unique name."""
    return _PREFIX + os.urandom(_DIGITS // 2).hex()


def own_name() -> str:
    """Returns the name of this process, as its supervisor knows it."""
    run = os.environ.get(RUN_VARIABLE)
    return owner_of(run, os.getpid()) if run else new_owner()


def lost_owners() -> tuple[str, ...]:
    """Returns the names of the workers that died before this one was started in their place."""
    run = os.environ.get(RUN_VARIABLE)
    pids = os.environ.get(LOST_VARIABLE, "").split()
    return tuple(owner_of(run, int(pid)) for pid in pids) if run else ()
