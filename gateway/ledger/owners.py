"""Whose a hold is: the beginning of its id names the worker that made it.

owner_of(run, pid)   a worker's name, which its supervisor can tell from its process id
new_owner()          that of a worker without a supervisor
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

RUN_VARIABLE: Final = "GATEWAY_RUN"
"""Names one run of a supervisor to its workers."""
LOST_VARIABLE: Final = "GATEWAY_LOST_WORKERS"
"""The process ids of workers of this run that have died, for the ones that are started after them."""
_PREFIX: Final = "req_"
_DIGITS: Final = 8


def owner_of(run: str, pid: int) -> str:
    """The name of the worker with this process id, in one run of a supervisor."""
    return _PREFIX + hashlib.sha256(f"{run}:{pid}".encode()).hexdigest()[:_DIGITS]


def new_owner() -> str:
    """A name that nobody else has."""
    return _PREFIX + os.urandom(_DIGITS // 2).hex()


def own_name() -> str:
    """This process's, as its supervisor knows it."""
    run = os.environ.get(RUN_VARIABLE)
    return owner_of(run, os.getpid()) if run else new_owner()


def lost_owners() -> tuple[str, ...]:
    """The workers that died before this one was started in their place."""
    run = os.environ.get(RUN_VARIABLE)
    pids = os.environ.get(LOST_VARIABLE, "").split()
    return tuple(owner_of(run, int(pid)) for pid in pids) if run else ()
