"""Conversations: lists of items. Each completed turn appends its input and its output in one step.

A conversation is one hash in its team's slot. Every change is one script, which assigns the positions, so two turns
never mix and never take the same position. Raises GatewayError: `conversation_not_found` (404), `conversation_locked`,
`store_unavailable`.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
import zlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from gateway.errors import GatewayError
from gateway.protocol.lenient_json import dumps, parse_json
from gateway.state.items import Item, shown, with_ids
from gateway.state.records import PLAIN, SEALED, Sealer
from gateway.state.responses import StatePolicy
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather
from gateway.store.script import Script
from gateway.store.store import Store

CHANGE: Final = Script.load("conversation_v1")
LOCK_WAIT_S: Final = 5.0
"""How long a second turn of a conversation waits for the first. OpenAI's JavaScript client does not retry."""
LOCK_LIFE_S: Final = 15.0
"""How long a lock outlives the worker that has it. `renew_locks` is due every third of that."""
_LOOK_EVERY_S: Final = 0.05
_ID: Final = re.compile(r"conv_[A-Za-z0-9_\-]{1,64}")


class Conversation(NamedTuple):
    """A conversation. `items` are ordered from old to new, each with its id. `created_at` is Unix time in seconds."""

    id: str
    created_at: int
    metadata: dict[str, Any]
    items: Sequence[Item]

    def resource(self) -> dict[str, Any]:
        """Returns the conversation as the API shows it."""
        return {
            "id": self.id,
            "object": "conversation",
            "created_at": self.created_at,
            "metadata": self.metadata,
        }


class Conversations:
    """The conversations of all teams. Mutable: the locks that turns of this worker have, by their names."""

    def __init__(self, store: Store, policy: StatePolicy, sealer: Sealer | None = None) -> None:
        self._store = store
        self._policy = policy
        self._sealer = sealer
        self._ttl_ms = str(policy.ttl_s * 1000)
        self._locks: dict[str, tuple[str, str]] = {}

    async def create(self, team_id: str, metadata: dict[str, Any], items: Sequence[Item]) -> Conversation:
        """Creates a conversation with these items."""
        identifier = f"conv_{secrets.token_hex(24)}"
        created_at = int(time.time())
        await self._change(team_id, identifier, "create", _meta(created_at, metadata))
        if items:
            await self.append(team_id, identifier, items)
        return Conversation(identifier, created_at, metadata, ())

    async def read(self, team_id: str, conversation_id: str) -> Conversation:
        """Returns the conversation with all its items."""
        if _ID.fullmatch(conversation_id) is None:
            raise not_found(conversation_id)
        name = TeamKeys(team_id).conversation(conversation_id)
        flat = (await gather([self._store.run("HGETALL", name)]))[0]
        fields = {key.decode(): value for key, value in zip(flat[::2], flat[1::2], strict=True)}
        if "meta" not in fields:
            raise not_found(conversation_id)
        meta = parse_json(fields["meta"])
        places = sorted(int(field[2:]) for field in fields if field.startswith("i:"))
        items = [self._open(team_id, fields[f"i:{place}"]) for place in places]
        return Conversation(conversation_id, meta["created_at"], meta["metadata"], items)

    async def update(self, team_id: str, conversation_id: str, metadata: dict[str, Any]) -> Conversation:
        """Replaces the metadata and nothing else."""
        before = await self.read(team_id, conversation_id)
        await self._change(team_id, conversation_id, "update", _meta(before.created_at, metadata))
        return before._replace(metadata=metadata)

    async def delete(self, team_id: str, conversation_id: str) -> None:
        """Deletes the conversation and its items."""
        name = TeamKeys(team_id).conversation(conversation_id)
        if not (await gather([self._store.run("DEL", name)]))[0]:
            raise not_found(conversation_id)

    async def append(self, team_id: str, conversation_id: str, items: Sequence[Item], lock: str = "") -> list[Item]:
        """Appends items in one step and returns them with their ids. If `lock` is given, this turn's lock is released.

        Raises `invalid_item` if the conversation would grow beyond `state.max_response_bytes`.
        """
        added = shown(items)
        packed = self.packed(team_id, added)
        most = str(self._policy.max_response_bytes)
        if await self._change(team_id, conversation_id, "append", most, lock, *packed) < 0:
            raise GatewayError(
                "invalid_item", f"The conversation holds {most} bytes at most; start another.", param="conversation"
            )
        return added

    def packed(self, team_id: str, items: Sequence[Item]) -> list[bytes]:
        """Returns items as a conversation stores them. Each gets an id if it has none."""
        return [self._pack(team_id, item) for item in with_ids(items)]

    async def remove(self, team_id: str, conversation_id: str, item_id: str) -> bool:
        """Removes an item. Returns whether it existed."""
        return await self._call(team_id, conversation_id, "remove", item_id) == 1

    async def lock(self, team_id: str, conversation_id: str, name: str, life_s: float) -> None:
        """Locks a conversation for one turn.

        Waits up to LOCK_WAIT_S for the turn before. Raises `conversation_locked`.
        """
        if _ID.fullmatch(conversation_id) is None:
            raise not_found(conversation_id)
        deadline_s = asyncio.get_running_loop().time() + LOCK_WAIT_S
        while True:
            answer = await self._call(team_id, conversation_id, "lock", name, str(int(life_s * 1000)))
            if answer == 1:
                self._locks[name] = team_id, conversation_id
                return
            if answer == 0:
                raise not_found(conversation_id)
            if asyncio.get_running_loop().time() >= deadline_s:
                raise GatewayError(
                    "conversation_locked",
                    f"Another turn of the conversation {conversation_id!r} is running.",
                    param="conversation",
                )
            await asyncio.sleep(_LOOK_EVERY_S)

    async def unlock(self, team_id: str, conversation_id: str, name: str) -> None:
        """Releases the lock of a turn. Does nothing if the turn does not hold the lock."""
        self._locks.pop(name, None)
        await self._call(team_id, conversation_id, "unlock", name)

    async def renew_locks(self) -> None:
        """Renews the locks of running turns. Raises GatewayError `store_unavailable`."""
        life_ms = str(int(LOCK_LIFE_S * 1000))
        for name, (team_id, conversation_id) in list(self._locks.items()):
            if name in self._locks:  # the turn may have ended while others were renewed
                await self._call(team_id, conversation_id, "lock", name, life_ms)

    async def _change(self, team_id: str, conversation_id: str, what: str, *args: str | bytes) -> int:
        answer = await self._call(team_id, conversation_id, what, *args)
        if answer == 0:
            raise not_found(conversation_id)
        return answer

    async def _call(self, team_id: str, conversation_id: str, what: str, *args: str | bytes) -> int:
        keys = [TeamKeys(team_id).conversation(conversation_id)]
        answer: int = (await gather([self._store.call(CHANGE, keys, [what, self._ttl_ms, *args])]))[0]
        return answer

    def _pack(self, team_id: str, item: Item) -> bytes:
        data = zlib.compress(dumps(item))
        body = PLAIN + data if self._sealer is None else SEALED + self._sealer.seal(data, team_id)
        return str(item["id"]).encode() + b" " + body

    def _open(self, team_id: str, packed: bytes) -> Item:
        body = packed.partition(b" ")[2]
        data = body[1:]
        if body[:1] == SEALED:
            if self._sealer is None:
                raise GatewayError("internal_error", "A sealed conversation cannot be opened: its key is not set.")
            data = self._sealer.open(data, team_id)
        item: Item = parse_json(zlib.decompress(data))
        return item


def _meta(created_at: int, metadata: dict[str, Any]) -> bytes:
    return dumps({"created_at": created_at, "metadata": metadata})


def not_found(conversation_id: str) -> GatewayError:
    """The error for a conversation that is unknown, expired, deleted or another team's."""
    return GatewayError(
        "conversation_not_found", f"There is no conversation {conversation_id!r} here.", param="conversation"
    )
