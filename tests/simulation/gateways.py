"""Simulated gateways: the production ledger over the production store, in a process of its own.

gateway = Gateway(world, network, "a", directory, rules)
gateway.start()           opens the store and begins the upkeep
gateway.spawn(work)       a coroutine of this process
gateway.kill()            `kill -9`; what it spooled stays on disk
gateway.end()             SIGTERM, as gateway/app.py ends
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.ledger.ledger import Ledger
from gateway.ledger.policy import LedgerPolicy
from gateway.ledger.spool import SUFFIX, Spool, SpooledCall
from gateway.store.store import Store, StoreSettings
from tests.simulation.network import Network
from tests.simulation.process_loop import ProcessLoop
from tests.simulation.world import World

_SPOOL_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Rules:
    """The settings of all gateways of a schedule."""

    policy: LedgerPolicy
    store: StoreSettings


class Gateway:
    """Mutable: its process, and the parts that live in it once it has started."""

    def __init__(
        self, world: World, network: Network, name: str, directory: Path, rules: Rules, lost: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self.directory = directory
        self.rules = rules
        self.world = world
        self.loop = ProcessLoop(world, network)
        self.ledger: Ledger | None = None
        self.store: Store | None = None
        self.spool: Spool | None = None
        self.ended = False
        self.leaving = False
        self._lost = lost
        self._works: list[asyncio.Task[None]] = []
        network.names[self.loop] = name

    @property
    def serves(self) -> bool:
        """Whether it takes requests."""
        return self.ledger is not None and not self.loop.dead and not self.leaving

    @property
    def lives(self) -> bool:
        return not self.loop.dead and not self.ended

    def start(self) -> None:
        _ = self.spawn(self._begin())

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self.loop.create_task(work)

    def kill(self) -> None:
        self.loop.kill()
        # The system closes its files, which releases their locks.
        if self.spool is not None and self.spool._file is not None:  # noqa: SLF001 - nobody else knows the file
            self.spool._file.close()  # noqa: SLF001 - the same

    def end(self) -> asyncio.Task[None]:
        """It must have no requests any more."""
        self.leaving = True
        return self.spawn(self._end())

    def unrest(self) -> str:
        """What is left to be done in this gateway, or nothing."""
        if self.ledger is None or self.spool is None or self.store is None:
            return "has not started"
        if not self.store.available:
            return f"store away: {self.store.fault}"
        if not self.ledger.is_settled:
            return "open holds"
        return "settlements wait in its spool" if self.spool.pending or self.ledger.upkeep.spool_waits else ""

    def spooled(self) -> set[str]:
        """The ids of the settlements that are on disk in its directory."""
        return spooled_in(self.directory)

    async def _begin(self) -> None:
        self.store = store = await Store.open(self.rules.store)
        self.spool = Spool(self.directory, _SPOOL_BYTES, self.rules.policy.resolution_ttl_s)
        self.ledger = Ledger(store, self.spool, self.rules.policy, lost=self._lost)
        self._works = [self.loop.create_task(work.run()) for work in self.ledger.periodics]

    async def _end(self) -> None:
        assert self.ledger is not None
        assert self.store is not None
        for work in reversed(self._works):
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        await self.ledger.flush()
        await self.store.close()
        self.ended = True


def spooled_in(directory: Path) -> set[str]:
    """The ids of the settlements in a spool's directory."""
    ids = set()
    for path in directory.glob(f"*{SUFFIX}"):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                with contextlib.suppress(ValueError):
                    ids.add(SpooledCall.read(line).args[0])
    return ids
