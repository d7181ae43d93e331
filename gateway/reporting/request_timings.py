"""How long the parts of a request took, for the last settled requests of each team.

    gw:{T}:timings   stream: request id -> JSON; bounded in number and in time, written in batches off the warm path

Under overload a worker writes only a sample (request_reporter.py). The roll-ups (outcome_rollups.py) count every
request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from gateway.store.keyspace import TIMINGS_MS, TeamKeys
from gateway.store.replies import gather
from gateway.store.store import Store

MAX_TIMINGS: Final = 500


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
        calls += [self._store.run("PEXPIRE", name, str(TIMINGS_MS)) for name in streams.values()]
        await gather(calls)

    async def find(self, team_id: str, request_id: str) -> dict[str, Any] | None:
        """Returns the timings of a request, or None if they are unknown or no longer kept."""
        wanted = request_id.encode()
        newest = self._store.run("XREVRANGE", TeamKeys(team_id).timings, "+", "-", "COUNT", str(2 * MAX_TIMINGS))
        for _, (name, text) in (await gather([newest]))[0]:
            if name == wanted:
                found: dict[str, Any] = orjson.loads(text)
                return found
        return None
