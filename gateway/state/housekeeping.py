"""What is kept of a team: how much it is, and how all of it is deleted, for operators.

usage(team_id)     what lies in the store
purge(team_id)     deletes it; what runs in the background is cancelled
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.state.background import Background
from gateway.state.conversations import Conversations
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather
from gateway.store.store import Store

_AT_ONCE: Final = 200
_COUNTERS: Final = frozenset({b"#", b"@"})


class StateUsage(NamedTuple):
    """What is kept of a team. Bytes are as they are kept: compressed, and encrypted if a key is set."""

    responses: int
    response_bytes: int
    conversations: int
    conversation_bytes: int
    background: int


class Housekeeping:
    """Looks at and deletes what is kept of teams."""

    def __init__(self, store: Store, conversations: Conversations, background: Background) -> None:
        self._store = store
        self._conversations = conversations
        self._background = background

    async def usage(self, team_id: str) -> StateUsage:
        """Returns what is kept. Raises GatewayError `store_unavailable`."""
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
        """Deletes everything, and returns what it was. Raises GatewayError `store_unavailable`."""
        names, before = TeamKeys(team_id), await self.usage(team_id)
        for raw in (await gather([self._store.run("HKEYS", names.background)]))[0]:
            if raw not in _COUNTERS:
                await self._background.delete(team_id, raw.decode())
        await gather([self._store.run("UNLINK", *names.stored_responses, *names.conversation_account)])
        for pattern in names.kept_state_by_id:
            await self._unlink(pattern)
        return before

    async def _unlink(self, pattern: str) -> None:
        """Deletes the keys with such names. They all lie in one slot."""
        found: list[bytes] = []
        async for name in self._store.redis.scan_iter(match=pattern, count=1000):
            found.append(name)
            if len(found) >= _AT_ONCE:
                await gather([self._store.run("UNLINK", *found)])
                found = []
        if found:
            await gather([self._store.run("UNLINK", *found)])
