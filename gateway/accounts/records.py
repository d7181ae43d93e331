"""The stored hashes of teams and keys, and their lists.

    hashes, team, page     read hashes and lists
    list_accounts          reads a page of teams or keys, and leaves out those that have ended
    configure              changes one hash with one script

`Status` is the first number in the replies of the scripts that change a team or a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from functools import partial
from typing import Any, Final, TypeVar

from gateway.accounts.entities import ENDED, Account, Team, read_team
from gateway.accounts.rules import Derived
from gateway.errors import GatewayError
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather, gather_pages
from gateway.store.script import Script
from gateway.store.store import Store, StoreError
from gateway.types import Page

CONFIG: Final = Script.load("config_v4")
_MAX_PAGES: Final = 20  # how many pages of the list are searched for accounts that have not ended
_Account = TypeVar("_Account", bound=Account)


class Status(IntEnum):
    """The result of a script."""

    DONE = 1
    EXISTS = 0
    GONE = -1
    OTHER_VERSION = -2
    FINAL = -3
    OTHER_NAME = -4
    LATE = -5


class Records:
    """The records of teams and keys in one store.

    Raises GatewayError `store_unavailable` if the store is unavailable.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self, *command: str) -> Any:
        """Runs one command."""
        return (await gather([self._store.run(*command)]))[0]

    async def call(self, script: Script, keys: list[str], args: Sequence[str]) -> Any:
        """Runs one script."""
        return (await gather([self._store.call(script, keys, args)]))[0]

    async def hashes(self, names: Sequence[str]) -> list[dict[str, str]]:
        """Reads several hashes. A missing hash is empty. A key of another type has only a field "name"."""
        calls = [partial(self._store.run, "HGETALL", name) for name in names]
        return await gather_pages(self._store, calls, _read_hash, faults=True)

    async def now_ms(self, name: str) -> int:
        """Returns the time by the clock of the server that has a hash, by which later deadlines are computed."""
        seconds, micros = (await gather([self._store.run("TIME", key=name)]))[0]
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        self._store.note_clock(name, now_ms)
        return now_ms

    async def find_team(self, team_id: str) -> Team | None:
        """Returns a team by its id, or None."""
        stored = (await self.hashes([TeamKeys(team_id).team]))[0]
        return read_team(team_id, stored) if stored else None

    async def team(self, team_id: str) -> Team:
        """Returns a team by its id. Raises `team_not_found`."""
        team = await self.find_team(team_id)
        if team is None:
            raise GatewayError("team_not_found", f"There is no team {team_id!r}.")
        return team

    async def page(self, name: str, limit: int, after: str | None) -> tuple[list[str], str | None]:
        """Returns ids of a list in order of creation, and the next cursor.

        Raises `invalid_field` for a wrong cursor.
        """
        start = 0
        if after is not None:
            rank = await self.run("ZRANK", name, after)
            if rank is None:
                raise GatewayError("invalid_field", f"There is no cursor {after!r}.", param="after")
            start = rank + 1
        ids = [raw.decode() for raw in await self.run("ZRANGE", name, str(start), str(start + limit))]
        return ids[:limit], ids[limit - 1] if len(ids) > limit else None

    async def list_accounts(
        self,
        name: str,
        limit: int,
        after: str | None,
        *,
        hash_of: Callable[[str], str],
        read: Callable[[str, Mapping[str, str]], _Account],
        ended: bool,
    ) -> Page[_Account]:
        """Returns a page of a list's accounts. Without `ended`, a page may be short although it is not the last.

        Raises `invalid_field` for an unknown cursor.
        """
        found: list[_Account] = []
        for _ in range(_MAX_PAGES):
            ids, after = await self.page(name, limit - len(found), after)
            hashes = await self.hashes([hash_of(identifier) for identifier in ids])
            accounts = (read(identifier, stored) for identifier, stored in zip(ids, hashes, strict=True) if stored)
            found += [account for account in accounts if ended or account.status not in ENDED]
            if after is None or len(found) == limit:
                break
        return Page(tuple(found), after)

    async def configure(
        self,
        keys: TeamKeys,
        key_id: str,
        fields: Mapping[str, str],
        version: int | None,
        derived: Derived,
        *,
        based_on: int | None = None,
        expected_name: str = "",
        run_by_ms: str = "",
    ) -> Status:
        """Changes the hash of a team, or of a key unless `key_id` is "". Returns DONE, OTHER_NAME or LATE.

        `version`: the version that the client expects. `based_on`: the version from which `derived` was computed; it
        is valid for that only. If only `based_on` is given and the hash has another version, returns OTHER_VERSION.
        Raises `version_mismatch`, and `not_allowed` for a deleted or revoked account.
        """
        if based_on is not None and version not in (None, based_on):
            raise changed_meanwhile(based_on)
        expected = based_on if version is None else version
        if derived.until_ms is not None:
            run_by_ms = str(min(derived.until_ms - 1, int(run_by_ms or derived.until_ms)))
        expectations = ["" if expected is None else str(expected), expected_name, run_by_ms]
        number, now = await self.call(
            CONFIG,
            [keys.key(key_id) if key_id else keys.team, keys.state],
            [*expectations, key_id, derived.cuts, *flat({**fields, **derived.fields})],
        )
        status = Status(number)
        if status is Status.OTHER_VERSION and version is not None:
            raise changed_meanwhile(now)
        if status is Status.FINAL:
            raise GatewayError("not_allowed", "It was deleted or revoked, for good. Create a new one.", param="status")
        return Status.DONE if status is Status.GONE else status  # the caller reads it next, and raises the error


def _read_hash(reply: list[bytes] | StoreError) -> dict[str, str]:
    if isinstance(reply, StoreError):
        return {"name": ""}
    words = [word.decode(errors="replace") for word in reply]
    return dict(zip(words[::2], words[1::2], strict=True))


def flat(fields: Mapping[str, str]) -> list[str]:
    """Returns fields and values in one list, in the form of arguments of commands and scripts."""
    return [word for pair in fields.items() for word in pair]


def changed_meanwhile(version: int) -> GatewayError:
    """Returns the error for a change of an outdated version."""
    return GatewayError("version_mismatch", f"It was changed in the meantime: its version is now {version}.")
