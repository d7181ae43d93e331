"""Applies operators' orders to one worker, and reports on the worker.

    run_round()  once a second: applies the orders in the store (cluster_state), and reports this worker's state
    reload()     after POST /admin/v1/config/reload, SIGHUP or an order: reads and checks the file, replaces the plan

A reload applies the sections of RELOADED. Changes of other sections need a restart and are named in the result. A file
with any mistake changes nothing. An upstream whose settings did not change keeps its connections and its health. The
connections of a removed upstream are closed when the last request that may use it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol

import structlog

from gateway.config.errors import SettingsError
from gateway.config.settings import Settings
from gateway.errors import GatewayError
from gateway.protocol.timestamps import iso_time
from gateway.proxy.handler import RequestHandler
from gateway.proxy.snapshot import ActiveSnapshot, ConfigSnapshot
from gateway.store.errors import StoreError
from gateway.upstream.health import Condition
from gateway.upstream.model_list import ModelList
from gateway.upstream.upstream import Upstream
from gateway.websocket.sockets import Sockets
from gateway.worker.cluster_state import ClusterState, Orders

EVERY_S: Final = 1.0
MAX_WAIT_S: Final = 3.0
"""How long an admin's order waits until all workers have applied it: three of their rounds."""
_POLL_EVERY_S: Final = 0.05
RELOADED: Final = (
    "upstreams",
    "routes",
    "aliases",
    "prices",
    "limits",
    "attribution",
    "admin",
    "notices",
    "recipients",
)
_MAX_PROBLEM_CHARACTERS: Final = 4000
_MODELS_SHOWN: Final = 20


class Parts(Protocol):
    """What a reload replaces and what it needs. `services.Services` has it."""

    settings: Settings
    handler: RequestHandler
    model_list: ModelList
    sockets: Sockets


@dataclass(frozen=True, slots=True)
class Source:
    """Where the configuration comes from.

    `load` raises SettingsError; `build` raises ValueError, OSError or ImportError.

    `build(settings, keep)` returns a snapshot that uses the upstreams of `keep` unchanged.
    """

    load: Callable[[], Settings]
    build: Callable[[Settings, Mapping[str, Upstream]], ConfigSnapshot]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The result of a reload: the sections that changed, and the changed sections that need a restart."""

    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


class ControlLoop:
    """The control loop of one worker.

    Mutable: `generation`, `problem` (why the last reload failed), and the old snapshots that are still in use.
    """

    def __init__(self, parts: Parts, cluster_state: ClusterState, source: Source | None) -> None:
        self.worker_id = os.urandom(6).hex()
        self.generation = 0
        self.problem = ""
        self.loaded_ms = _now_ms()
        self._started_ms = self.loaded_ms
        self._parts = parts
        self._cluster_state = cluster_state
        self._source = source
        self._retiring: list[tuple[ActiveSnapshot, list[Upstream]]] = []
        self._reloading = asyncio.Lock()
        self._log = structlog.get_logger("gateway.control")

    async def begin(self) -> None:
        """Applies the orders before the first request, and reloads if a reload was ordered since the file was read."""
        with contextlib.suppress(GatewayError, StoreError):
            orders = await self._cluster_state.orders()
            self.generation = orders.generation
            if orders.generation and self._source is not None:
                with contextlib.suppress(GatewayError):  # `problem` says why
                    await self.reload()  # for a reload that was ordered after this worker had read its file
            self._apply(orders)
            await self._report()

    async def end(self) -> None:
        """At shutdown: removes this worker's report and closes the upstreams' connections."""
        with contextlib.suppress(GatewayError, StoreError):
            await self._cluster_state.remove(self.worker_id)
        for _, upstreams in self._retiring:
            for upstream in upstreams:
                await upstream.close()
        for upstream in self._parts.handler.snapshot.upstreams.values():
            await upstream.close()

    async def reload(self) -> Reloaded:
        """Reads the configuration again and puts it into force.

        Raises GatewayError `invalid_config`, and then changes nothing.
        """
        async with self._reloading:
            try:
                reloaded = await self._reload()
            except GatewayError as error:
                self.problem = error.message[:_MAX_PROBLEM_CHARACTERS]
                self._log.error("config_not_reloaded", reason=self.problem)
                raise
            self.problem = ""
            self.loaded_ms = _now_ms()
            self._log.info("config_reloaded", changed=reloaded.changed, needs_restart=reloaded.needs_restart)
            return reloaded

    async def reload_all(self) -> Reloaded:
        """Reloads this worker and then all others. Raises GatewayError `invalid_config`, `store_unavailable`."""
        try:
            reloaded = await self.reload()
            self.generation = await self._cluster_state.next_generation()
        finally:
            with contextlib.suppress(GatewayError, StoreError):  # the next round reports again
                await self._report()
        return reloaded

    async def workers_behind(self, has_applied: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
        """Waits until all workers have applied an order, at most `MAX_WAIT_S`. Returns the reports of the others.

        Each report has `silent_s`, the time since it was written; a worker that has just died is silent. Raises
        GatewayError `store_unavailable`.
        """
        deadline_s = time.monotonic() + MAX_WAIT_S
        while True:
            late = [report for report in await self._cluster_state.workers() if not has_applied(report)]
            if not late or time.monotonic() > deadline_s:
                now_ms = _now_ms()
                return [
                    {**report, "silent_s": round(max(0, now_ms - report.get("at_ms", now_ms)) / 1000, 1)}
                    for report in late
                ]
            await asyncio.sleep(_POLL_EVERY_S)

    async def refresh(self) -> None:
        """Applies orders at once that were given a moment ago. Raises GatewayError `store_unavailable`."""
        self._apply(await self._cluster_state.orders())
        await self._report()

    async def run_round(self) -> None:
        """Runs one round. Raises GatewayError `store_unavailable`; then the last orders stay in force."""
        orders = await self._cluster_state.orders()
        self._apply(orders)
        if orders.generation != self.generation:
            self.generation = orders.generation
            with contextlib.suppress(GatewayError):  # `problem` says why
                await self.reload()
                self._apply(orders)
        await self._close_retired()
        await self._report()

    def _apply(self, orders: Orders) -> None:
        snapshot = self._parts.handler.snapshot
        snapshot.tenancy.several_teams = orders.teams > 1
        for name, upstream in snapshot.upstreams.items():
            order = orders.off.get(name)
            upstream.enabled = order is None
            upstream.taken_out = "" if order is None else f"by {order['by']} at {iso_time(order['at_ms'])}"

    async def _reload(self) -> Reloaded:
        parts, source = self._parts, self._source
        if source is None:
            raise GatewayError("invalid_config", "This gateway was started without a file: there is nothing to read.")
        try:
            wanted = await asyncio.to_thread(source.load)
        except SettingsError as error:
            raise GatewayError("invalid_config", "; ".join(error.problems)) from None
        old = parts.settings
        before = parts.handler.snapshot.upstreams
        keep = {
            name: before[name]
            for name, upstream in wanted.upstreams.items()
            if name in before and old.upstreams.get(name) == upstream
        }
        settings = old.model_copy(update={name: getattr(wanted, name) for name in RELOADED})
        try:
            snapshot = source.build(settings, keep)
        except (ValueError, OSError, ImportError) as error:
            raise GatewayError("invalid_config", f"upstreams: {error}") from None
        retired = [upstream for name, upstream in before.items() if snapshot.upstreams.get(name) is not upstream]
        for name, upstream in snapshot.upstreams.items():
            upstream.enabled, upstream.taken_out = True, ""
            if name in before:
                upstream.enabled, upstream.taken_out = before[name].enabled, before[name].taken_out
        snapshot.tenancy.several_teams = parts.handler.snapshot.tenancy.several_teams
        self._retiring.append((parts.handler.replace_snapshot(snapshot), retired))
        parts.settings, parts.model_list = settings, ModelList(snapshot.upstreams, parts.model_list)
        different = [name for name in Settings.model_fields if getattr(wanted, name) != getattr(old, name)]
        return Reloaded(
            tuple(name for name in different if name in RELOADED),
            tuple(name for name in different if name not in RELOADED),
        )

    async def _close_retired(self) -> None:
        # A kept upstream may be part of several old snapshots. A removed one is closed after the last snapshot that has
        # it.
        while self._retiring and self._retiring[0][0].requests == 0:
            _, upstreams = self._retiring.pop(0)
            for upstream in upstreams:
                await upstream.close()

    async def _report(self) -> None:
        now_ms = _now_ms()
        state = {
            "worker": self.worker_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "at_ms": now_ms,
            "started_ms": self._started_ms,
            "loaded_ms": self.loaded_ms,
            "generation": self.generation,
            "problem": self.problem,
            "running": len(self._parts.handler.running),
            "sockets": self._parts.sockets.count,
            "socket_turns": self._parts.sockets.turns.total(),
            "upstreams": {
                name: upstream_state(upstream, asyncio.get_running_loop().time())
                for name, upstream in self._parts.handler.snapshot.upstreams.items()
            },
        }
        await self._cluster_state.report(self.worker_id, state, now_ms)


def upstream_state(upstream: Upstream, now_s: float) -> dict[str, Any]:
    """Describes an upstream as one worker sees it: breakers, resting keys, connections, the first failing models."""
    health, keys = upstream.health, upstream.keys.keys
    failing = (found for found in health.models(now_s) if found.condition is not Condition.CLOSED)
    limited = ((key, model, rests_s) for key in keys for model, rests_s in key.resting_models(now_s).items())
    return {
        "enabled": upstream.enabled,
        "breaker": health.whole.condition(now_s).value,
        "probe_in_s": round(health.whole.wait_s(now_s), 1),
        "models_down": [
            {"model": model, "breaker": condition.value, "probe_in_s": round(wait_s, 1)}
            for model, condition, wait_s, _opened_s in islice(failing, _MODELS_SHOWN)
        ],
        "keys": [{"number": key.number, "rests_s": round(max(0.0, key.rests_until_s - now_s), 1)} for key in keys],
        "keys_limited": [
            {"number": key.number, "model": model, "rests_s": round(rests_s, 1)}
            for key, model, rests_s in islice(limited, _MODELS_SHOWN)
        ],
        "open_connections": upstream.connections[0],
        "idle_connections": upstream.connections[1],
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
