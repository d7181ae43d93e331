"""Conversations: lists of items. Each completed turn appends its input and its output in one step.

A conversation is one hash in its team's slot. Every change is one script, which assigns the positions, so two turns
never mix and never take the same position. Raises GatewayError: `conversation_not_found` (404), `conversation_locked`,
`store_unavailable`.
"""

from __future__ import annotations

import asyncio
import re
import time
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import structlog

from gateway.errors import GatewayError
from gateway.protocol.lenient_json import dumps, parse_json
from gateway.state.chain import Link, since_compaction
from gateway.state.items import Item, shown, with_ids
from gateway.state.large_work import LargeWork, dump_whole, is_long, parse_whole
from gateway.state.own_ids import new_id
from gateway.state.records import Sealer, pack_bytes, unpack_bytes
from gateway.state.responses import StatePolicy
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather
from gateway.store.script import Script
from gateway.store.store import Store

CHANGE: Final = Script.load("conversation_v3")
LOCK_WAIT_S: Final = 5.0
"""How long a second turn of a conversation waits for the first. OpenAI's JavaScript client does not retry."""
LOCK_LIFE_S: Final = 15.0
"""How long a lock outlives its worker. `renew_locks` is called three times in this period."""
MAX_ITEMS_AT_ONCE: Final = 1000
"""How many items a client may add in one step, because the store serves nobody else meanwhile."""
_LATE: Final = -2
_TEAM_FULL: Final = -3
_LONG_PACKED_BYTES: Final = 8 * 1024
_MAX_DROPPED: Final = 20
"""How many conversations of a team may be deleted to make room for one turn."""
_POLL_S: Final = 0.05
_JSON: Final = b"{"
"""The first byte of metadata that was written before there was encryption."""
_ID: Final = re.compile(r"conv_[A-Za-z0-9_\-]{1,64}")


class Conversation(NamedTuple):
    """A conversation. `items` are ordered from old to new. `created_at` is Unix time in seconds.

    `places`: the permanent position of each item. A provider may give the same id to items of several turns.
    `removed_ids`: such ids of items that were removed.
    """

    id: str
    created_at: int
    metadata: dict[str, Any]
    items: Sequence[Item]
    places: Sequence[int] = ()
    removed_ids: Sequence[str] = ()

    def listed(self) -> list[Item]:
        """Returns the items as lists show them. If several items share an id, only the first one keeps it."""
        return shown(self.items, self._named_places, self.removed_ids)

    def _with_ids(self) -> list[Item]:
        return with_ids(self.items, self._named_places, self.removed_ids)

    @property
    def _named_places(self) -> list[str]:
        return [f"{self.id}/{place}" for place in self.places]

    @property
    def last_place(self) -> int:
        """The position of the last item, or 0."""
        return self.places[-1] if self.places else 0

    def link(self, last_place: int | None = None) -> Link:
        """Returns the items since the latest compaction as a turn to continue: all of them, or those up to a place."""
        end = len(self.items) if last_place is None else bisect_right(self.places, last_place)
        start = end - len(since_compaction(self.items[:end]))
        return Link(self.id, self.items[start:end], (), lambda: self._with_ids()[start:end])

    def resource(self) -> dict[str, Any]:
        """Returns the conversation as the API shows it."""
        return {
            "id": self.id,
            "object": "conversation",
            "created_at": self.created_at,
            "metadata": self.metadata,
        }


class Conversations:
    """The conversations of all teams. Mutable: the locks of this worker's turns, by their names."""

    def __init__(
        self, store: Store, policy: StatePolicy, sealer: Sealer | None = None, large_work: LargeWork | None = None
    ) -> None:
        self._large_work = large_work or LargeWork()
        self._store = store
        self._policy = policy
        self._sealer = sealer
        self._ttl_ms = str(policy.ttl_s * 1000)
        self._locks: dict[str, tuple[str, str]] = {}

    async def create(self, team_id: str, metadata: dict[str, Any], items: Sequence[Item]) -> Conversation:
        """Creates a conversation with these items. It is returned without them."""
        identifier = new_id("conv")
        created_at = int(time.time())
        await self._change(team_id, identifier, "create", self._meta(team_id, created_at, metadata))
        if items:
            await self.append(team_id, identifier, items)
        return Conversation(identifier, created_at, metadata, ())

    async def read(self, team_id: str, conversation_id: str) -> Conversation:
        """Returns the conversation with all its items, and renews its lifetime."""
        if _ID.fullmatch(conversation_id) is None:
            raise not_found(conversation_id)
        name = TeamKeys(team_id).conversation(conversation_id)
        used = self._start_call(team_id, conversation_id, "unlock", "")  # changes nothing, but renews the lifetime
        flat = (await gather([self._store.run("HGETALL", name), used]))[0]
        fields = {key.decode(): value for key, value in zip(flat[::2], flat[1::2], strict=True)}
        if "meta" not in fields:
            raise not_found(conversation_id)
        packed = fields["meta"]
        meta = parse_json(packed if packed[:1] == _JSON else self._unpacked(team_id, packed, "meta"))
        places = sorted(int(field[2:]) for field in fields if field.startswith("i:"))
        removed_ids = [value.decode() for field, value in fields.items() if field.startswith("x:")]
        parts = [fields[f"i:{place}"] for place in places]
        work = partial(self._unpack_items, team_id, parts)
        items = await self._large_work.run(work, is_long=sum(map(len, parts)) > _LONG_PACKED_BYTES)
        return Conversation(conversation_id, meta["created_at"], meta["metadata"], items, places, removed_ids)

    async def update(self, team_id: str, conversation_id: str, metadata: dict[str, Any]) -> Conversation:
        """Replaces the metadata and nothing else."""
        before = await self.read(team_id, conversation_id)
        await self._change(team_id, conversation_id, "update", self._meta(team_id, before.created_at, metadata))
        return before._replace(metadata=metadata)

    async def delete(self, team_id: str, conversation_id: str) -> None:
        """Deletes the conversation and its items."""
        if _ID.fullmatch(conversation_id) is None:
            raise not_found(conversation_id)
        await self._change(team_id, conversation_id, "delete")

    async def append(self, team_id: str, conversation_id: str, items: Sequence[Item], lock: str = "") -> int:
        """Appends items in one step and returns the place of the first. If `lock` is given, it is released.

        Raises `invalid_item` if the conversation would grow beyond `state.max_response_bytes`, or 10,000 items.
        """
        packed = await self.packed(team_id, items)
        max_bytes, max_team_bytes = str(self._policy.max_response_bytes), str(self._policy.max_team_bytes)
        done = _TEAM_FULL
        for _ in range(_MAX_DROPPED):
            done = await self._change(team_id, conversation_id, "append", max_bytes, max_team_bytes, lock, *packed)
            if done != _TEAM_FULL or not await self._drop_oldest(team_id, conversation_id):
                break
        if done < 0:
            raise GatewayError(
                "invalid_item",
                f"The conversation has as many items as it may, or as many bytes ({max_bytes}); start another.",
                param="conversation",
            )
        return done

    async def add(self, team_id: str, conversation_id: str, items: Sequence[Item]) -> list[Item]:
        """Appends items in one step, and returns them as the conversation lists them, each with a unique id.

        The id is derived from the item's place, so that it does not depend on what others append or remove meanwhile.
        """
        first = await self.append(team_id, conversation_id, items) if items else 0
        found = await self.read(team_id, conversation_id)
        added = range(first, first + len(items))
        return [item for place, item in zip(found.places, found.listed(), strict=True) if place in added]

    async def _drop_oldest(self, team_id: str, conversation_id: str) -> bool:
        """Deletes the least recently used conversation other than this one. Returns whether there was one."""
        use, _ = TeamKeys(team_id).conversation_account
        oldest = (await gather([self._store.run("ZRANGE", use, "0", "1")]))[0]
        others = [raw.decode() for raw in oldest if raw.decode() != conversation_id]
        if others:
            await self._call(team_id, others[0], "delete")
        return bool(others)

    async def usage(self, team_id: str) -> tuple[int, int]:
        """Returns how many conversations a team has, and how many bytes they hold."""
        use, sizes = TeamKeys(team_id).conversation_account
        count, size = await gather([self._store.run("ZCARD", use), self._store.run("HGET", sizes, "*")])
        return int(count), int(size or 0)

    async def packed(self, team_id: str, items: Sequence[Item]) -> list[bytes]:
        """Returns items as a conversation stores them. Each gets an id if it has none.

        Raises GatewayError for more than a client and its answer may add in one step.
        """
        check_number(items, "items", 2 * MAX_ITEMS_AT_ONCE)

        def pack() -> list[bytes]:
            return [self._pack(team_id, item) for item in with_ids(items)]

        return await self._large_work.run(pack, is_long=is_long(*items))

    async def remove(self, team_id: str, conversation_id: str, item_id: str) -> bool:
        """Removes the item with this id in lists. Returns whether it existed."""
        found = await self.read(team_id, conversation_id)
        own_ids = [item.get("id") for item in found.items]
        for place, own, item in zip(found.places, own_ids, found.listed(), strict=True):
            if item.get("id") == item_id:
                shared_id = item_id if own_ids.count(item_id) > (own == item_id) else ""  # keeps the others' ids
                return await self._call(team_id, conversation_id, "remove", str(place), shared_id) == 1
        return False

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
            await asyncio.sleep(_POLL_S)

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

    async def _change(self, team_id: str, conversation_id: str, action: str, *args: str | bytes) -> int:
        answer = await self._call(team_id, conversation_id, action, *args)
        if answer == 0:
            raise not_found(conversation_id)
        return answer

    async def _call(self, team_id: str, conversation_id: str, action: str, *args: str | bytes) -> int:
        answer: int = (await gather([self._start_call(team_id, conversation_id, action, *args)]))[0]
        if answer == _LATE:
            raise GatewayError("store_unavailable", "The gateway's store answers too late.", wait_ms=1000)
        return answer

    def _start_call(self, team_id: str, conversation_id: str, action: str, *args: str | bytes) -> asyncio.Future[Any]:
        names = TeamKeys(team_id)
        keys = [names.conversation(conversation_id), *names.conversation_account]
        head = [action, self._ttl_ms, self._store.run_by_ms(keys[0]), conversation_id]
        return self._store.call(CHANGE, keys, [*head, *args], is_large=True)

    def _meta(self, team_id: str, created_at: int, metadata: dict[str, Any]) -> bytes:
        return pack_bytes(dumps({"created_at": created_at, "metadata": metadata}), team_id, self._sealer)

    def _pack(self, team_id: str, item: Item) -> bytes:
        return str(item["id"]).encode() + b" " + pack_bytes(dump_whole(item), team_id, self._sealer)

    def _unpack_items(self, team_id: str, parts: Sequence[bytes]) -> list[Item]:
        found: list[Item] = []
        for part in parts:
            name, _, body = part.partition(b" ")
            found.append(parse_whole(self._unpacked(team_id, body, name.decode())))
        return found

    def _unpacked(self, team_id: str, packed: bytes, name: str) -> bytes:
        try:
            return unpack_bytes(packed, team_id, self._sealer)
        except ValueError as error:
            log = structlog.get_logger("gateway.state")
            log.warning("conversation_not_opened", team_id=team_id, part=name, reason=str(error))
            raise GatewayError("internal_error", "The conversation cannot be opened.") from None


def check_number(items: Sequence[object], param: str, maximum: int = MAX_ITEMS_AT_ONCE) -> None:
    """Raises GatewayError `invalid_item` for more items than may be added in one step."""
    if len(items) > maximum:
        raise GatewayError("invalid_item", f"A conversation takes {maximum} items at once.", param=param)


def not_found(conversation_id: str) -> GatewayError:
    """Returns the error for a conversation that is unknown, expired, deleted or of another team."""
    return GatewayError(
        "conversation_not_found", f"There is no conversation {conversation_id!r} here.", param="conversation"
    )
