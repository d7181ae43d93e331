"""Operators' orders to all workers, and the workers' reports, as keys in the store that are read once per second.

| key                | value                                        | meaning                                          |
|--------------------|----------------------------------------------|--------------------------------------------------|
| `gw:upstreams-off` | upstream's name -> who disabled it, and when | workers send nothing to these upstreams          |
| `gw:generation`    | a number                                     | workers reload their configuration when it grows |
| `gw:worker:<id>`   | JSON, which expires after seconds            | a worker's report, with its view of upstreams    |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.store import keyspace
from gateway.store.replies import gather
from gateway.store.store import Store

REPORT_TTL_MS: Final = 10_000
_WORKERS_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Orders:
    """The orders in force for all workers. `off` maps names of upstreams to {"by", "at_ms"}; `teams` counts teams."""

    off: Mapping[str, Mapping[str, Any]]
    generation: int
    teams: int


class ClusterState:
    """Orders and reports in one store. Raises GatewayError `store_unavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def orders(self) -> Orders:
        """Returns the orders in force."""
        off, generation, teams = await gather(
            [
                self._store.run("HGETALL", keyspace.UPSTREAMS_OFF),
                self._store.run("GET", keyspace.GENERATION),
                self._store.run("ZCARD", keyspace.TEAMS),
            ]
        )
        names = {name.decode(): orjson.loads(text) for name, text in zip(off[::2], off[1::2], strict=True)}
        return Orders(names, int(generation or 0), teams)

    async def disable_upstream(self, upstream: str, by: str, at_ms: int) -> None:
        """Disables an upstream. Each worker follows in its next round."""
        note = orjson.dumps({"by": by, "at_ms": at_ms})
        await gather([self._store.run("HSETNX", keyspace.UPSTREAMS_OFF, upstream, note)])

    async def enable_upstream(self, upstream: str) -> None:
        """Enables an upstream again."""
        await gather([self._store.run("HDEL", keyspace.UPSTREAMS_OFF, upstream)])

    async def next_generation(self) -> int:
        """Makes every worker reload its configuration. Returns the new generation."""
        generation: int = (await gather([self._store.run("INCR", keyspace.GENERATION)]))[0]
        return generation

    async def report(self, worker_id: str, state: Mapping[str, Any], now_ms: int) -> None:
        """Stores a worker's report. It expires soon unless the worker renews it."""
        text = orjson.dumps(state)
        await gather(
            [
                self._store.run("SET", keyspace.worker(worker_id), text, "PX", str(REPORT_TTL_MS)),
                self._store.run("ZADD", keyspace.WORKERS, str(now_ms), worker_id),
                self._store.run("ZREMRANGEBYSCORE", keyspace.WORKERS, "-inf", str(now_ms - _WORKERS_MS)),
                self._store.run("PEXPIRE", keyspace.WORKERS, str(_WORKERS_MS)),
            ]
        )

    async def remove(self, worker_id: str) -> None:
        """Removes the report of a worker that has ended."""
        await gather(
            [
                self._store.run("DEL", keyspace.worker(worker_id)),
                self._store.run("ZREM", keyspace.WORKERS, worker_id),
            ]
        )

    async def workers(self) -> list[dict[str, Any]]:
        """Returns the reports of all running workers."""
        ids = [raw.decode() for raw in (await gather([self._store.run("ZRANGE", keyspace.WORKERS, "0", "-1")]))[0]]
        texts = await gather([self._store.run("GET", keyspace.worker(worker_id)) for worker_id in ids])
        return [orjson.loads(text) for text in texts if text is not None]
