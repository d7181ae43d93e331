"""Requests as they end, for whoever watches: a short stream in the store that all workers write to.

gw:live-wanted     for seconds     somebody watches: workers publish what ends
gw:live            for a minute    finished requests
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from gateway.store import keyspace
from gateway.store.replies import gather
from gateway.store.store import Store

WANTED_MS: Final = 3_000
MAX_LIVE_EVENTS: Final = 2_000
_LIVE_MS: Final = 60_000
_LIVE_ID: Final = re.compile(r"\d{1,15}-\d{1,15}")


class LiveRequests:
    """The stream. Raises GatewayError `store_unavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def request_events(self) -> None:
        """Somebody watches, for the next seconds."""
        await gather([self._store.run("SET", keyspace.LIVE_WANTED, "1", "PX", str(WANTED_MS))])

    async def is_watched(self) -> bool:
        """Whether somebody watches."""
        return (await gather([self._store.run("GET", keyspace.LIVE_WANTED)]))[0] is not None

    async def publish(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Finished requests of this worker."""
        limit = str(MAX_LIVE_EVENTS)
        calls = [
            self._store.run("XADD", keyspace.LIVE, "MAXLEN", "~", limit, "*", "event", orjson.dumps(event))
            for event in events
        ]
        await gather([*calls, self._store.run("PEXPIRE", keyspace.LIVE, str(_LIVE_MS))])

    async def last_id(self) -> str:
        """The id of the last event; "0-0" where there is none."""
        found = (await gather([self._store.run("XREVRANGE", keyspace.LIVE, "+", "-", "COUNT", "1")]))[0]
        return found[0][0].decode() if found else "0-0"

    async def after(self, last_id: str, limit: int) -> list[tuple[str, dict[str, Any]]]:
        """Events after one of them, the oldest first."""
        found = (await gather([self._store.run("XRANGE", keyspace.LIVE, f"({last_id}", "+", "COUNT", str(limit))]))[0]
        return [(entry_id.decode(), orjson.loads(fields[1])) for entry_id, fields in found]


def is_live_id(text: str) -> bool:
    """Whether the text is an id of the live stream, as a client sends it to continue from."""
    return _LIVE_ID.fullmatch(text) is not None
