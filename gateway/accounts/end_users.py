"""What the limits of each end user have counted for one end user, computed by the Lua functions that enforce them.

    read_end_user(store, team, keys, digest, burst)   by the team's own limits, and by those of each key

The store knows an end user by a digest alone (`attribution.counted_as`), so that none can be listed by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from gateway.accounts.calendars import write_calendar
from gateway.accounts.entities import Account, Key, Rule, Team, read_rules
from gateway.accounts.limit_names import END_USER
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather, gather_pages
from gateway.store.script import Script
from gateway.store.store import Store

VIEW: Final = Script.load("end_user_view_v1")


class EndUserView(NamedTuple):
    """What one team or key counts for an end user. `rules` have names without `end_user.`, in the order of lists.

    `is_counted`: the store has an entry for it. Otherwise nothing was used, or nothing counts any more.
    """

    now_ms: int
    is_counted: bool
    running: int
    rules: tuple[Rule, ...]


class EndUserViews(NamedTuple):
    """What a team and its keys count for an end user, each by its own limits."""

    of_team: EndUserView
    of_keys: list[EndUserView]

    @property
    def is_counted(self) -> bool:
        """Whether any of them has an entry for it."""
        return any(view.is_counted for view in (self.of_team, *self.of_keys))


def limits_end_users(account: Account) -> bool:
    """Whether a team or a key has limits of each end user, permanently or until a time."""
    return any(name.startswith(END_USER) for name in (*account.limits, *account.overrides))


async def read_end_user(store: Store, team: Team, keys: Sequence[Key], digest: str, burst: str) -> EndUserViews:
    """Returns the views by the team's own limits and by those of each key. `burst` as in `views.read_views`.

    Raises GatewayError, `store_unavailable` among others.
    """
    found, lacks_calendar = await _read(store, team.id, keys, digest, burst)
    if lacks_calendar:
        await gather([asyncio.ensure_future(write_calendar(store, team.id, found[0].now_ms))])
        found, _ = await _read(store, team.id, keys, digest, burst)
    return EndUserViews(found[0], found[1:])


async def _read(
    store: Store, team_id: str, keys: Sequence[Key], digest: str, burst: str
) -> tuple[list[EndUserView], bool]:
    names = TeamKeys(team_id)
    calls = [partial(store.call, VIEW, [names.team, names.end_users], ["", digest, burst])]
    calls += [
        partial(store.call, VIEW, [names.team, names.end_users, names.key(key.id)], [key.id, digest, burst])
        for key in keys
    ]
    replies: list[list[Any]] = await gather_pages(store, calls)
    views = [
        EndUserView(now_ms, counted == 1, running, read_rules(rows)) for now_ms, counted, running, rows, _ in replies
    ]
    return views, any(reply[-1] for reply in replies)
