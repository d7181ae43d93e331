"""Checks whether the store may lose the ledger's data, or forbids commands that the gateway needs.

    danger          meaning
    evicts          its maxmemory-policy is allkeys-*: when memory is full it evicts teams, balances and journals
    evicts_expiring volatile-*: when memory is full it evicts settlement results, and a repetition is charged twice
    not_persistent  there is neither an append-only file nor a snapshot: a restart of the server loses everything
    no_replica      there is no copy: losing the machine loses everything
    old_version     the server is older than Redis 7
    forbids         the gateway's user may not run a command that scripts need; they refuse to start (script.py)

The gateway does not start with a danger in `FATAL`, unless `store.accept_data_loss` is set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.script import COMMANDS, Script
from gateway.store.store import Store
from gateway.store.url import Address

DANGERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "evicts": "its maxmemory-policy is {policy}: short of memory it drops teams and balances; set noeviction",
        "evicts_expiring": "its maxmemory-policy is {policy}: short of memory it forgets settlements; set noeviction",
        "not_persistent": "it has neither appendonly nor save: a restart loses keys and credits; set appendonly yes",
        "no_replica": "it has no replica: what is lost with its machine is lost for good",
        "old_version": "it is version {version}; Redis 7 or a Valkey is needed",
        "forbids": "its ACL does not let us run {forbidden}: what needs it is refused, and settlements wait; permit it",
    }
)
FATAL: Final = frozenset({"evicts", "not_persistent"})
_MIN_VERSION: Final = 7
PERMISSIONS: Final = Script.load("permissions_v1")
_KEY: Final = "gw:{probe-0}"  # represents the gateway's keys, and is not used otherwise
_FORBIDDEN_COMMAND: Final = re.compile(r"the '([a-z|]+)' command")


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a node reports about itself. `forbidden`: the commands that the gateway needs and may not run."""

    version: str
    policy: str
    persists: bool | None
    replicas: int | None
    forbidden: tuple[str, ...] = ()

    @property
    def dangers(self) -> tuple[str, ...]:
        """The names of the dangers."""
        found = []
        if self.policy.startswith("allkeys-"):
            found.append("evicts")
        elif self.policy.startswith("volatile-"):
            found.append("evicts_expiring")
        if self.persists is False:
            found.append("not_persistent")
        if self.replicas == 0:
            found.append("no_replica")
        major = self.version.partition(".")[0]
        if major.isdigit() and int(major) < _MIN_VERSION:
            found.append("old_version")
        if self.forbidden:
            found.append("forbids")
        return tuple(found)

    def explain(self, danger: str) -> str:
        """Returns a sentence that explains a danger."""
        return DANGERS[danger].format(policy=self.policy, version=self.version, forbidden=", ".join(self.forbidden))


def read_inspection(info: bytes, save: str | None) -> Inspection:
    """Parses the reply of INFO. `save` is the value of the configuration directive, or None if the server hides it."""
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    fields = {name: value for name, separator, value in lines if separator}
    persists: bool | None = None
    if fields.get("aof_enabled") == "1" or save:
        persists = True
    elif save is not None and "aof_enabled" in fields:
        persists = False
    replicas = fields.get("connected_slaves", "")
    return Inspection(
        version=fields.get("redis_version", ""),
        policy=fields.get("maxmemory_policy", ""),
        persists=persists,
        replicas=int(replicas) if replicas.isdigit() else 0,
    )


async def inspect(store: Store) -> dict[Address, Inspection]:
    """Inspects every node. A node that hides INFO is left out unless it forbids commands. Raises StoreUnavailable."""
    forbidden = await _forbidden(store)
    found = {node: Inspection("", "", None, None, commands) for node, commands in forbidden.items() if commands}
    try:
        infos = await store.run_on_nodes("INFO")
    except (StoreError, StoreUnavailable) as error:
        if isinstance(error, StoreUnavailable) and error.reason != "NOPERM":
            raise
        return found
    try:
        saves = await store.run_on_nodes("CONFIG", "GET", "save")
    except (StoreError, StoreUnavailable):  # managed servers often forbid CONFIG
        saves = {}
    for node, info in infos.items():
        reply = saves.get(node)
        inspection = read_inspection(info, reply[1].decode() if reply else None)
        found[node] = replace(inspection, forbidden=forbidden.get(node, ()))
    return found


async def _forbidden(store: Store) -> dict[Address, tuple[str, ...]]:
    """Returns the commands that the gateway's user may not run, per node. Raises StoreUnavailable."""
    try:
        replies = await store.run_on_nodes("EVALSHA", PERMISSIONS.sha, 0, _KEY, *COMMANDS, script=PERMISSIONS)
    except StoreUnavailable as error:
        if error.reason != "NOPERM":
            raise
        named = _FORBIDDEN_COMMAND.search(error.detail)
        command = named[1].replace("|", " ").upper() if named else "scripts"
        return dict.fromkeys(store.connected, (command,))
    except StoreError:  # a server without this function
        return {}
    return {node: tuple(sorted(command.decode() for command in reply)) for node, reply in replies.items()}


def explain_dangers(found: Mapping[Address, Inspection], only: frozenset[str] | None = None) -> list[str]:
    """Returns one sentence per danger, with the first node that has it."""
    seen: dict[str, str] = {}
    for node, inspection in found.items():
        for danger in inspection.dangers:
            if only is None or danger in only:
                seen.setdefault(danger, f"{node}: {inspection.explain(danger)}")
    return list(seen.values())
