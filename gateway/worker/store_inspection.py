"""Checks the store's configuration: at each new connection, and every few seconds because it can change.

Dangers and forbidden commands are logged when they change, named by /readyz, and counted in `gateway_store_dangers`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import structlog

from gateway.concurrency.periodic import Periodic
from gateway.ledger.admission_call import ADMIT
from gateway.ledger.settlement_call import SETTLE
from gateway.store import durability
from gateway.store.durability import Inspection
from gateway.store.errors import StoreUnavailable
from gateway.store.store import Store
from gateway.store.url import Address

_EVERY_S: Final = 1.0
_AGAIN_S: Final = 5.0
_NEEDED: Final = frozenset({*ADMIT.commands, *SETTLE.commands, "EVALSHA", "SCRIPT LOAD"})
_FORBIDS: Final = frozenset({"forbids"})
_QUIET: Final = frozenset({"no_replica"})
"""Dangers that are not logged. Many gateways run with them, and `gateway check` reports them."""


class StoreInspection:
    """The inspection of one worker. Mutable: the dangers, the connections that they were found on, and when."""

    def __init__(self, store: Store) -> None:
        self.work: Final = Periodic("inspect-store", _EVERY_S, self._look, outages=(StoreUnavailable,))
        self.found: Mapping[Address, Inspection] = MappingProxyType({})
        self._store = store
        self._epoch = -1
        self._looked_s = 0.0
        self._named_dangers: list[str] = []
        self._named_forbidden: list[str] = []
        self._log = structlog.get_logger("gateway.store")

    @property
    def dangers(self) -> list[str]:
        """The names of the dangers, in order."""
        return sorted({danger for inspection in self.found.values() for danger in inspection.dangers})

    @property
    def forbidden(self) -> list[str]:
        """The commands that the store's ACL forbids although scripts need them, in order."""
        return sorted({command for inspection in self.found.values() for command in inspection.forbidden})

    @property
    def lets_us_serve(self) -> bool:
        """Whether the ACL permits all that admission and settlement need."""
        return _NEEDED.isdisjoint(self.forbidden)

    async def _look(self) -> None:
        epoch, now_s = self._store.epoch, time.monotonic()
        if not self._store.available or (epoch == self._epoch and now_s - self._looked_s < _AGAIN_S):
            return
        self.found = await durability.inspect(self._store)
        self._epoch, self._looked_s = epoch, now_s
        self._say_forbidden(durability.explain_dangers(self.found, _FORBIDS))
        named_dangers = durability.explain_dangers(self.found, frozenset(durability.DANGERS) - _QUIET - _FORBIDS)
        if named_dangers != self._named_dangers:
            self._named_dangers = named_dangers
            for danger in named_dangers:
                self._log.error("store_may_lose_data", reason=danger)
            if not named_dangers:
                self._log.info("store_keeps_data")

    def _say_forbidden(self, named: list[str]) -> None:
        if named != self._named_forbidden:
            self._named_forbidden = named
            for reason in named:
                self._log.error("store_forbids", reason=reason)
            if not named:
                self._log.info("store_permits")
