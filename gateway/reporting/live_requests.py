"""Finished requests as a live stream: a short stream in the store that all workers write to while somebody watches.

gw:live-wanted     TTL of seconds     somebody watches, so workers publish finished requests
gw:live            TTL of a minute    the finished requests
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
    """The stream of finished requests. Raises GatewayError `store_unavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def request_events(self) -> None:
        """Asks all workers to publish finished requests for the next seconds."""
        await gather([self._store.run("SET", keyspace.LIVE_WANTED, "1", "PX", str(WANTED_MS))])

    async def is_watched(self) -> bool:
        """Whether somebody watches."""
        return (await gather([self._store.run("GET", keyspace.LIVE_WANTED)]))[0] is not None

    async def publish(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Publishes finished requests of this worker."""
        limit = str(MAX_LIVE_EVENTS)
        calls = [
            self._store.run("XADD", keyspace.LIVE, "MAXLEN", "~", limit, "*", "event", orjson.dumps(event))
            for event in events
        ]
        await gather([*calls, self._store.run("PEXPIRE", keyspace.LIVE, str(_LIVE_MS))])

    async def last_id(self) -> str:
        """Returns the id of the last event, or "0-0" if there is none."""
        found = (await gather([self._store.run("XREVRANGE", keyspace.LIVE, "+", "-", "COUNT", "1")]))[0]
        return found[0][0].decode() if found else "0-0"

    async def after(self, last_id: str, limit: int) -> list[tuple[str, dict[str, Any]]]:
        """Returns the events that follow an id, oldest first."""
        found = (await gather([self._store.run("XRANGE", keyspace.LIVE, f"({last_id}", "+", "COUNT", str(limit))]))[0]
        return [(entry_id.decode(), orjson.loads(fields[1])) for entry_id, fields in found]


def is_live_id(text: str) -> bool:
    """Whether the text has the form of an event id, as a client sends it to resume the stream."""
    return _LIVE_ID.fullmatch(text) is not None
