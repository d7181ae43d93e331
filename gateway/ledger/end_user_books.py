"""Compares what runs for each end user, by the counters of its limits and by the holds. For verification.

A team may have as many end users as `limits.max_end_users`, so that their entries are read page by page. Each page is
compared with the holds in one step, while traffic continues.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from gateway.ledger.journal import OpenHold
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather
from gateway.store.script import Script
from gateway.store.store import Store

BOOKS: Final = Script.load("end_user_books_v1")
_PAGE: Final = 500
_END_USER: Final = "u"
_SCOPES: Final = frozenset("ef")


class Miscounted(NamedTuple):
    """A count that differs from the holds. `name` is an entry's field, and a rule's id for a limit of concurrency."""

    name: str
    holds: int
    counted: int


async def compare_end_users(store: Store, team_id: str, holds: Sequence[OpenHold]) -> list[Miscounted]:
    """Returns the counts that differ. `holds` are the open holds of a moment ago; their end users may lack an entry.

    Raises GatewayError `store_unavailable`, and StoreError for a key of another type.
    """
    names, found = TeamKeys(team_id), dict[str, Miscounted]()
    cursor: Any = b"0"
    fields = _fields(holds)
    while True:
        cursor, flat = (await gather([store.run("HSCAN", names.end_users, cursor, "COUNT", str(_PAGE))]))[0]
        fields |= {raw.decode() for raw in flat[::2]}
        waiting = iter(sorted(fields))
        while page := list(islice(waiting, _PAGE)):
            reply = (await gather([store.call(BOOKS, [names.held, names.end_users], page)]))[0]
            found |= {one.name: one for one in _read(reply)}
        fields = set()
        if int(cursor) == 0:
            return list(found.values())


def _fields(holds: Iterable[OpenHold]) -> set[str]:
    """Returns the fields of the entries that holds name (scripts/end_users.lua)."""
    found = set[str]()
    for hold in holds:
        users = [name[1:] for name in hold.counted if name.startswith(_END_USER)]
        scopes = {name[0] for name in hold.counted} & _SCOPES
        found |= {user if scope == "e" else f"{hold.key_id}:{user}" for user in users for scope in scopes}
    return found


def _read(flat: Sequence[Any]) -> Iterator[Miscounted]:
    for name, holds, counted in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        yield Miscounted(name.decode(), holds, counted)
