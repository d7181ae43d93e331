"""How long the parts of a request took: of the last settled ones of each team, for whoever looks at one of them.

    gw:{T}:timings   a stream: request -> JSON; bounded in number and in time, written in batches off the warm path

In a storm a worker writes a sample (feed.Feed): the roll-ups in seen.py count every request.
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
    """The teams' timings in one store. Raises GatewayError `store_unavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def write(self, taken: Sequence[tuple[str, str, Mapping[str, Any]]]) -> None:
        """Stores (team id, request id, what it took)."""
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
        """What a request took; None where it is not known, or not any more."""
        wanted = request_id.encode()
        newest = self._store.run("XREVRANGE", TeamKeys(team_id).timings, "+", "-", "COUNT", str(2 * MAX_TIMINGS))
        for _, (name, text) in (await gather([newest]))[0]:
            if name == wanted:
                found: dict[str, Any] = orjson.loads(text)
                return found
        return None
