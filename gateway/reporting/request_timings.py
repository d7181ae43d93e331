"""How long the parts of a request took, and more facts of its record, for the last settled requests of each team.

    gw:{T}:timings   stream: request id -> JSON; bounded in number and in time, written in batches off the warm path

Under overload a worker writes only a sample (request_reporter.py). The roll-ups (outcome_rollups.py) count every
request.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import orjson

from gateway.store.keyspace import TIMINGS_MS, TeamKeys
from gateway.store.replies import gather, gather_pages
from gateway.store.store import Store

MAX_TIMINGS: Final = 500
NAMES: Final = ("response_id", "upstream_response_id", "upstream_request_id")
"""The fields with other ids of a request: its client's, its provider's, and that of the upstream that answered."""


class RequestTimings:
    """The timings of all teams in one store. Raises GatewayError `store_unavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def write(self, taken: Sequence[tuple[str, str, Mapping[str, Any]]]) -> None:
        """Stores (team id, request id, timings) tuples."""
        streams = {team_id: TeamKeys(team_id).timings for team_id, _, _ in taken}
        calls = [
            self._store.run(
                "XADD", streams[team_id], "MAXLEN", "~", str(MAX_TIMINGS), "*", request_id, orjson.dumps(took)
            )
            for team_id, request_id, took in taken
        ]
        oldest_ms = str(time.time_ns() // 1_000_000 - TIMINGS_MS)
        for name in streams.values():
            # Older entries are deleted now; if the team sends no more requests, they expire with the stream.
            calls.append(self._store.run("XTRIM", name, "MINID", oldest_ms))
            calls.append(self._store.run("PEXPIRE", name, str(TIMINGS_MS)))
        await gather(calls)

    async def of_teams(self, team_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the stored timings of some teams, by request id."""
        found: dict[str, dict[str, Any]] = {}
        for entries in await self._read(team_ids):
            found |= {name.decode(): orjson.loads(text) for name, text in entries}
        return found

    async def find_named(self, team_ids: Sequence[str], text: str) -> tuple[str, str] | None:
        """Returns (team id, request id) for an id of a response or of an upstream, or None."""
        wanted = text.encode()
        for team_id, entries in zip(team_ids, await self._read(team_ids), strict=True):
            for name, took in entries:
                if wanted in took and text in map(orjson.loads(took).get, NAMES):
                    return team_id, name.decode()
        return None

    async def _read(self, team_ids: Sequence[str]) -> list[list[tuple[bytes, bytes]]]:
        names = [TeamKeys(team_id).timings for team_id in team_ids]
        count = str(2 * MAX_TIMINGS)
        calls = [partial(self._store.run, "XREVRANGE", name, "+", "-", "COUNT", count) for name in names]
        pages = await gather_pages(self._store, calls)
        return [[(name, text) for _, (name, text) in page] for page in pages]

    async def find(self, team_id: str, request_id: str) -> dict[str, Any] | None:
        """Returns the timings of a request, or None if they are unknown or no longer kept."""
        wanted = request_id.encode()
        newest = self._store.run("XREVRANGE", TeamKeys(team_id).timings, "+", "-", "COUNT", str(2 * MAX_TIMINGS))
        for _, (name, text) in (await gather([newest]))[0]:
            if name == wanted:
                found: dict[str, Any] = orjson.loads(text)
                return found
        return None
