"""The stored state of a team, for operators: its size, and its deletion.

usage(team_id)     returns how much is stored
purge(team_id)     deletes all of it, and cancels background responses
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.state.background import Background
from gateway.state.conversations import Conversations
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather
from gateway.store.store import Store

_BATCH_SIZE: Final = 200
_COUNTERS: Final = frozenset({b"#", b"@"})


class StateUsage(NamedTuple):
    """How much state of a team is stored. Bytes are counted as stored: compressed, and encrypted if a key is set."""

    responses: int
    response_bytes: int
    conversations: int
    conversation_bytes: int
    background: int


class Housekeeping:
    """Measures and deletes the state of teams."""

    def __init__(self, store: Store, conversations: Conversations, background: Background) -> None:
        self._store = store
        self._conversations = conversations
        self._background = background

    async def usage(self, team_id: str) -> StateUsage:
        """Returns how much is stored. Raises GatewayError `store_unavailable`."""
        names = TeamKeys(team_id)
        _, entries, use, _ = names.stored_responses
        calls = [
            self._store.run("ZCARD", use),
            self._store.run("HGET", entries, "*"),
            self._store.run("HKEYS", names.background),
        ]
        count, size, jobs = await gather(calls)
        conversations, held = await self._conversations.usage(team_id)
        return StateUsage(int(count), int(size or 0), conversations, held, len(set(jobs) - _COUNTERS))

    async def purge(self, team_id: str) -> StateUsage:
        """Deletes everything, and returns how much it was. Raises GatewayError `store_unavailable`."""
        names, before = TeamKeys(team_id), await self.usage(team_id)
        for raw in (await gather([self._store.run("HKEYS", names.background)]))[0]:
            if raw not in _COUNTERS:
                await self._background.delete(team_id, raw.decode())
        await gather([self._store.run("UNLINK", *names.stored_responses, *names.conversation_account)])
        for pattern in names.kept_state_by_id:
            await self._unlink(pattern)
        return before

    async def _unlink(self, pattern: str) -> None:
        """Deletes the keys whose names match. They are all in one slot."""
        found: list[bytes] = []
        async for name in self._store.redis.scan_iter(match=pattern, count=1000):
            found.append(name)
            if len(found) >= _BATCH_SIZE:
                await gather([self._store.run("UNLINK", *found)])
                found = []
        if found:
            await gather([self._store.run("UNLINK", *found)])
