"""The stored responses of all teams. Each names its parent, and is read and written by its id.

    chain(key, id)      a response and the responses that it continues, oldest first; renews the lifetime of each
    get(key, id)        one response
    put(...)            stores a response, or reserves its id while it runs
    delete(...)         deletes a response
    item(...)           the team's latest output item with this id

All keys of a team are in one slot. Contents are read in pipelined calls, a few MiB at a time, and never inside a
script. `StatePolicy` has the bounds. Raises GatewayError: `invalid_api_key`, `store_unavailable`, and the codes that
each method names.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, Final

import structlog

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey, invalid_api_key
from gateway.protocol.response_events import RUNNING
from gateway.state.chain import last_compaction
from gateway.state.items import Item
from gateway.state.large_work import LargeWork, is_long
from gateway.state.records import Sealer, StoredResponse, pack, unpack
from gateway.state.snapshot import failed_response
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather
from gateway.store.script import Script
from gateway.store.store import Store

PUT: Final = Script.load("response_put_v2")
WALK: Final = Script.load("response_walk_v3")
USE: Final = Script.load("response_use_v1")
LINEAGE: Final = Script.load("response_lineage_v1")
DELETE: Final = Script.load("response_delete_v1")
_SLICE_TURNS: Final = 1000
"""How many turns of a chain one script reads or renews: SLICE in response_entries.lua."""
_BATCH_SIZE: Final = 8
"""How many contents are read at once, from the newest turn back. A chain may end early at a compaction."""
_LONG_PACKED_BYTES: Final = 8 * 1024
"""Larger packed records take long to open, because packing reduces text to a fifth or less."""
_ITEM_ID: Final = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
_CONTINUABLE: Final = frozenset({"completed", "incomplete"})


@dataclass(frozen=True, slots=True)
class StatePolicy:
    """Bounds of stored responses. `max_resolved_bytes` bounds a whole chain, as JSON.

    `max_duration_s`: every response has ended after this time, unless it runs in the background.
    """

    ttl_s: int
    max_response_bytes: int
    max_team_bytes: int
    max_depth: int
    max_resolved_bytes: int
    max_duration_s: float = 3600.0


class PutResult(IntEnum):
    """The result of storing a response."""

    STORED = 1
    REFUSED = 0  # the id is already taken, or the response was deleted while it ran
    PARENT_GONE = -1
    LATE = -2  # the store ran the call after its deadline


class MissingResponse(GatewayError):
    """A previous response that is unknown, expired, deleted or of another team."""

    def __init__(self, response_id: str) -> None:
        message = f"The previous response {response_id!r} is not stored here."
        super().__init__("previous_response_not_found", message, param="previous_response_id")
        self.response_id = response_id


class ResponseStore:
    """The stored responses. If the operator has set a key, `sealer` encrypts them."""

    def __init__(
        self, store: Store, policy: StatePolicy, sealer: Sealer | None = None, large_work: LargeWork | None = None
    ) -> None:
        self.policy = policy
        self.large_work = large_work or LargeWork()
        self.store = store
        self._sealer = sealer
        self._ttl_ms = str(policy.ttl_s * 1000)
        self._log = structlog.get_logger("gateway.state")

    async def chain(self, key: ApiKey, response_id: str) -> list[StoredResponse]:
        """Returns the response and those that it continues, oldest first, from the latest compaction on.

        Raises MissingResponse, which names the response that is missing. Raises `invalid_item` if the response cannot
        be continued or the chain exceeds the bounds.
        """
        ids, gone = await self._walk(key, response_id)
        reachable = ids[: ids.index(gone)] if gone in ids else ids
        usable = reachable[: self.policy.max_depth]
        found: list[StoredResponse] = []
        size = 0
        for start in range(0, len(usable), _BATCH_SIZE):
            some = usable[start : start + _BATCH_SIZE]
            for identifier, packed in zip(some, await self._contents(key.team_id, some), strict=True):
                record = await self._open(key.team_id, packed)
                if record is None:
                    raise previous_not_found(identifier)
                if not found and record.status not in _CONTINUABLE:
                    raise _not_continuable(response_id, record.status)
                found.append(record)
                size += len(packed or b"")
                if size > self.policy.max_resolved_bytes:
                    raise _too_long(f"its turns hold more than {self.policy.max_resolved_bytes} bytes")
                if last_compaction(record.output) is not None:
                    return found[::-1]
        if len(reachable) > len(usable):
            raise _too_long(f"it has more than {self.policy.max_depth} turns")
        if gone or not found:  # nothing is found of the empty id
            raise previous_not_found(gone or response_id)
        return found[::-1]

    async def check(self, key: ApiKey) -> None:
        """Raises `invalid_api_key` if the key is not valid any more."""
        await self._walk(key, "")

    async def get(self, key: ApiKey, response_id: str) -> StoredResponse | None:
        """Returns a response of the key's team, or None. Renews its lifetime, and that of those that it continues."""
        await self._walk(key, response_id)
        return await self.read(key.team_id, response_id)

    async def read(self, team_id: str, response_id: str) -> StoredResponse | None:
        """Returns a response of the team with its present status, or None. It may be a temporary one."""
        contents, _, use, _, jobs, _, temporary = TeamKeys(team_id).background_response(response_id)
        # The job is read first. If there is none any more, the response that is read next has its last state.
        calls = [
            self.store.run("HGET", jobs, response_id),
            self.store.run("HGET", contents, response_id),
            self.store.run("ZSCORE", use, response_id),
            self.store.run("GET", temporary),
        ]
        job, stored, used, temporary_record = await gather(calls)
        is_stored = stored is not None and not self._has_expired(used)
        record = await self._open(team_id, stored if is_stored else temporary_record)
        if record is None or record.status not in RUNNING:
            return record
        if record.response.get("background") is not True:
            is_over = record.stored_s + self.policy.max_duration_s < time.time()
            return record._replace(response=_lost(record)) if is_over else record
        if job is None:
            return record._replace(response=_lost(record))
        return record._replace(response={**record.response, "status": job.split(b" ")[1].decode()})

    async def ancestors(self, key: ApiKey, record: StoredResponse) -> list[StoredResponse]:
        """Returns the responses that a response continues, oldest first, from the latest compaction on.

        Deleted ones are left out.
        """
        found: list[StoredResponse] = []
        ids = await self._lineage(key.team_id, record.parent or "")
        for start in range(0, len(ids), _BATCH_SIZE):
            for packed in await self._contents(key.team_id, ids[start : start + _BATCH_SIZE]):
                before = await self._open(key.team_id, packed)
                if before is not None:  # it may have been deleted just now
                    found.append(before)
                    if last_compaction(before.output) is not None:
                        return found[::-1]
        return found[::-1]

    async def _lineage(self, team_id: str, response_id: str) -> list[str]:
        """Returns the ids of a response and of those that it continues. Deleted ones are left out."""
        names, ids, rest = TeamKeys(team_id).stored_responses, list[str](), response_id
        while rest and len(ids) < self.policy.max_depth:
            raw, found = (await gather([self.store.call(LINEAGE, names, [rest, self._ttl_ms])]))[0]
            ids += [identifier.decode() for identifier in found]
            rest = raw.decode()
        return ids[: self.policy.max_depth]

    async def put(
        self, team_id: str, record: StoredResponse, *, running: bool, reserved: bool, packed: bytes | None = None
    ) -> PutResult:
        """Stores a response. Raises ValueError if it is too large.

        `reserved`: an earlier call has reserved its id. `packed`: the record, if it has been packed already.
        """
        args: list[str | bytes | int] = [
            record.response_id,
            record.parent or "",
            packed if packed is not None else await self.packed(team_id, record),
            "r" if running else "s",
            "known" if reserved else "new",
            self._ttl_ms,
            str(self.policy.max_team_bytes),
            self.item_ids(record),
            self.store.run_by_ms(TeamKeys(team_id).team),
        ]
        call = self.store.call(PUT, TeamKeys(team_id).stored_responses, args, is_large=True)
        return PutResult((await gather([call]))[0])

    async def packed(self, team_id: str, record: StoredResponse) -> bytes:
        """Returns a record as it is stored. Raises ValueError if it is too large."""
        work = partial(pack, record, team_id, self._sealer)
        packed = await self.large_work.run(work, is_long=is_long(record.response, record.input))
        if len(packed) > self.policy.max_response_bytes:
            raise ValueError(f"a response of {len(packed)} bytes is too large to be stored")
        return packed

    @staticmethod
    def item_ids(record: StoredResponse) -> str:
        """Returns the ids of a response's output items, by which references find them."""
        ids = (item.get("id") for item in record.output)
        return ",".join(one for one in ids if isinstance(one, str) and _ITEM_ID.fullmatch(one))

    async def delete(self, team_id: str, response_id: str) -> bool:
        """Deletes a response. Returns whether it existed."""
        call = self.store.call(DELETE, TeamKeys(team_id).stored_responses, [response_id])
        deleted: int = (await gather([call]))[0]
        return deleted == 1

    async def item(self, team_id: str, item_id: str) -> Item | None:
        """Returns the output item with this id, from the latest response that has one."""
        contents, _, use, items = TeamKeys(team_id).stored_responses
        response_id = (await gather([self.store.run("HGET", items, item_id)]))[0]
        if response_id is None:
            return None
        calls = [self.store.run("HGET", contents, response_id), self.store.run("ZSCORE", use, response_id)]
        packed, used = await gather(calls)
        record = None if self._has_expired(used) else await self._open(team_id, packed)
        if record is None:
            return None
        return next((item for item in reversed(record.output) if item.get("id") == item_id), None)

    def _has_expired(self, used: bytes | None) -> bool:
        """Whether a response that was used then, as `response_entries.lua` notes it, has outlived its lifetime."""
        return used is None or float(used) < (time.time() - self.policy.ttl_s) * 1_000_000

    async def _walk(self, key: ApiKey, response_id: str) -> tuple[list[str], str]:
        """Returns a chain's ids from this response to its root, and the first that is missing or deleted, or "".

        Renews the lifetime of each. A chain that is longer than the bound is not followed to its root.
        """
        names, ids, rest, gone = TeamKeys(key.team_id), list[str](), response_id, ""
        keys = [*names.stored_responses, names.team, names.key(key.key_id)]
        while True:
            args = [key.secret_hash, rest, self._ttl_ms, str(len(ids))]
            word, *found = (await gather([self.store.call(WALK, keys, args)]))[0]
            if word == b"key":
                raise invalid_api_key(found[0].decode(), found[1])
            ids += [identifier.decode() for identifier in found[1]]
            rest, gone = found[0].decode(), gone or found[2].decode()
            if not rest or len(ids) > self.policy.max_depth:
                break
        if len(ids) >= _SLICE_TURNS:
            await self._renew(names, ids)
        return ids, gone

    async def _renew(self, names: TeamKeys, ids: Sequence[str]) -> None:
        """Renews a chain that is too long for one script.

        It begins at the root, so that no turn outlives its ancestors.

        The added lifetime is the maximum duration of a turn, because the end of a turn renews only the last ancestors.
        """
        ahead_ms = str(int(min(self.policy.max_duration_s, self.policy.ttl_s) * 1000))
        at_ms = ""
        for start in reversed(range(0, len(ids), _SLICE_TURNS)):
            args = [self._ttl_ms, at_ms, ahead_ms, str(start), *ids[start : start + _SLICE_TURNS]]
            at_ms = str((await gather([self.store.call(USE, names.stored_responses, args)]))[0])

    async def _contents(self, team_id: str, ids: Sequence[str]) -> list[bytes | None]:
        contents = TeamKeys(team_id).stored_responses[0]
        return await gather([self.store.run("HGET", contents, identifier) for identifier in ids])

    async def _open(self, team_id: str, packed: bytes | None) -> StoredResponse | None:
        if packed is None:
            return None
        is_long = len(packed) > _LONG_PACKED_BYTES
        try:
            return await self.large_work.run(partial(unpack, packed, team_id, self._sealer), is_long=is_long)
        except ValueError as error:
            self._log.warning("response_not_opened", team_id=team_id, reason=str(error))
            return None


def _lost(record: StoredResponse) -> dict[str, Any]:
    """Returns a lost response as failed: its worker died, or could not reach the store."""
    return failed_response(record.response, "server_error", "The response was lost before its end was stored.")


def previous_not_found(response_id: str) -> MissingResponse:
    """Returns the error for a previous response that is unknown, expired, deleted or of another team."""
    return MissingResponse(response_id)


def _not_continuable(response_id: str, status: str) -> GatewayError:
    return GatewayError(
        "invalid_item",
        f"The response {response_id!r} is {status}: only one that is completed or incomplete can be continued.",
        param="previous_response_id",
    )


def _too_long(why: str) -> GatewayError:
    return GatewayError(
        "invalid_item", f"The chain cannot be continued: {why}. Compact it.", param="previous_response_id"
    )
