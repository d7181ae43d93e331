"""The notices in the store. All keys are in one slot, and every key has a TTL.

    gw:{notices}:sender     the worker whose turn it is
    gw:{notices}:marks      thresholds that gave a notice, by the time at which that is forgotten
    gw:{notices}:waiting    notices that are still to be sent, by id
    gw:{notices}:due        when each is due, by the server's clock
    gw:{notices}:ended      those that were sent or given up, the last `notices.max_ended`

One script stores a notice and marks its threshold, so that each threshold gives one notice. That a notice was sent is
stored afterwards. If the worker dies in between, the next one sends the notice again under the same id.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, Literal, NamedTuple

from gateway.notices.message import Notice, read_notice
from gateway.store.keyspace import NOTICE_MARKS, NOTICE_SENDER, NOTICES_DUE, NOTICES_ENDED, NOTICES_WAITING
from gateway.store.replies import gather
from gateway.store.script import Script
from gateway.store.store import Store

TURN: Final = Script.load("notice_turn_v1")
PUT: Final = Script.load("notice_put_v1")
DUE: Final = Script.load("notice_due_v1")
WAIT: Final = Script.load("notice_wait_v1")
END: Final = Script.load("notice_end_v1")
MARK_LIFE_MS: Final = 35 * 86_400_000
"""How long a threshold that is no longer reached stays marked. Until then it gives no second notice."""
WAITING_LIFE_MS: Final = 7 * 86_400_000
ENDED_LIFE_MS: Final = 35 * 86_400_000
Result = Literal["sent", "failed"]


class Put(IntEnum):
    """What became of a notice."""

    DONE = 1
    KNOWN = 0
    FULL = -1


class Waiting(NamedTuple):
    """A notice that waits, and when it is due."""

    notice: Notice
    due_ms: int


class Ended(NamedTuple):
    """A notice that has ended, when, and how."""

    notice: Notice
    at_ms: int
    result: str


class Outbox:
    """The notices of one store. Raises GatewayError `store_unavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def has_turn(self, worker_id: str, life_ms: int) -> bool:
        """Takes or renews the turn. Returns whether it is this worker's."""
        return bool(await self._call(TURN, [NOTICE_SENDER], [worker_id, str(life_ms)]))

    async def put(self, notice: Notice, marks: Sequence[str], max_waiting: int) -> Put:
        """Stores a notice to be sent, unless its threshold is marked or too many notices wait."""
        args: list[str | bytes] = [
            notice.id,
            notice.to_bytes(),
            str(max_waiting),
            str(MARK_LIFE_MS),
            str(WAITING_LIFE_MS),
            *marks,
        ]
        return Put(await self._call(PUT, [NOTICE_MARKS, NOTICES_WAITING, NOTICES_DUE], args))

    async def due(self, limit: int) -> list[Notice]:
        """Returns the due notices, in the order of their times."""
        found = await self._call(DUE, [NOTICES_WAITING, NOTICES_DUE], [str(limit)])
        return [read_notice(stored) for stored in found if stored is not None]

    async def wait_longer(self, notice: Notice, pause_s: float, others: Sequence[Notice] = ()) -> None:
        """Stores a notice for another attempt after a pause. `others` wait with it, unchanged."""
        times = [str(int(pause_s * 1000)), str(WAITING_LIFE_MS)]
        args: list[str | bytes] = [notice.id, notice.to_bytes(), *times, *(other.id for other in others)]
        await self._call(WAIT, [NOTICES_WAITING, NOTICES_DUE], args)

    async def end(self, notice: Notice, result: Result, max_ended: int) -> None:
        """Notes that a notice was sent, or that no attempt follows."""
        args: list[str | bytes] = [notice.id, notice.to_bytes(), result, str(max_ended), str(ENDED_LIFE_MS)]
        await self._call(END, [NOTICES_WAITING, NOTICES_DUE, NOTICES_ENDED], args)

    async def count(self) -> int:
        """Returns how many wait."""
        return int((await gather([self._store.run("HLEN", NOTICES_WAITING)]))[0])

    async def waiting(self, limit: int) -> list[Waiting]:
        """Returns the waiting notices, in the order in which they become due."""
        [flat] = await gather([self._store.run("ZRANGE", NOTICES_DUE, "0", str(limit - 1), "WITHSCORES")])
        if not flat:
            return []
        [stored] = await gather([self._store.run("HMGET", NOTICES_WAITING, *flat[::2])])
        pairs = zip(stored, flat[1::2], strict=True)
        return [Waiting(read_notice(found), int(float(due))) for found, due in pairs if found is not None]

    async def ended(self, limit: int) -> list[Ended]:
        """Returns the last ended notices, newest first."""
        [entries] = await gather([self._store.run("XREVRANGE", NOTICES_ENDED, "+", "-", "COUNT", str(limit))])
        return [_ended(entry_id, fields) for entry_id, fields in entries]

    async def _call(self, script: Script, keys: list[str], args: Sequence[str | bytes]) -> Any:
        return (await gather([self._store.call(script, keys, args)]))[0]


def _ended(entry_id: bytes, flat: list[bytes]) -> Ended:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return Ended(read_notice(fields[b"notice"]), int(entry_id.partition(b"-")[0]), fields[b"result"].decode())
