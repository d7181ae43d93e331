"""The audit log: what admins changed. Each action is appended to two bounded streams, `gw:audit` and the team's own.

    field         value
    actor         "root", or the admin key's id; actor_name is its name
    action        the method and the path template, such as "PATCH /teams/{team}/keys/{key}"
    subject       the path's parameters, such as "team=... key=..."
    team          the team's id, or "" if no team is concerned
    before,after  JSON; whatever looks like a secret is redacted
    request_id    the id of the admin's request

An entry is written when the action is complete. Its id is the stream's: "<server time, ms>-<number>".
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.errors import GatewayError
from gateway.store.keyspace import AUDIT, TeamKeys
from gateway.store.replies import gather
from gateway.store.store import Store
from gateway.types import Page

REDACTED: Final = "sk-..."
_SECRET: Final = re.compile(r"sk-gwa?-[0-9A-Za-z-]+")
_ID: Final = re.compile(r"\d{1,15}-\d{1,15}")
_MAX_TEXT_CHARACTERS: Final = 16_384
_PAGE: Final = 100
_REPEAT_AFTER_S: Final = (0.05, 0.2, 0.5, None)
"""Pauses between the attempts to append an entry while the store is unavailable. None is the last attempt."""


@dataclass(frozen=True, slots=True)
class Action:
    """One entry. Before it is written, `id` is "" and `at_ms` is 0."""

    actor: str
    actor_name: str
    action: str
    subject: str
    team_id: str
    before: Any
    after: Any
    request_id: str
    id: str = ""
    at_ms: int = 0


class AuditLog:
    """The audit log of one store, of which the newest `max_entries` are kept.

    Raises GatewayError `store_unavailable`.
    """

    def __init__(self, store: Store, max_entries: int) -> None:
        self._store = store
        self._max_entries = str(max_entries)

    async def write(self, action: Action) -> None:
        """Appends an entry."""
        fields = {
            "actor": action.actor,
            "actor_name": action.actor_name,
            "action": action.action,
            "subject": action.subject,
            "team": action.team_id,
            "before": _text(action.before),
            "after": _text(action.after),
            "request_id": action.request_id,
        }
        words = [word for pair in fields.items() for word in pair]
        for name in (AUDIT, TeamKeys(action.team_id).audit) if action.team_id else (AUDIT,):
            await self._append(name, words)

    async def _append(self, name: str, words: list[str]) -> None:
        """Appends to one stream. If the reply is lost, the entry may be there twice: `read` shows it once."""
        for pause_s in _REPEAT_AFTER_S:
            try:
                await gather([self._store.run("XADD", name, "MAXLEN", "~", self._max_entries, "*", *words)])
            except GatewayError:
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)
            else:
                return

    async def read(self, team_id: str | None, limit: int, after: str | None) -> Page[Action]:
        """Returns entries of one team or of all, newest first. Raises `invalid_field` for an invalid cursor."""
        if after is not None and not _ID.fullmatch(after):
            raise GatewayError("invalid_field", f"{after!r} is not a cursor of the audit log.", param="after")
        if after is not None and not after.strip("0-"):
            return Page((), None)  # there is nothing older, and the store has no range that ends before its start
        name = AUDIT if team_id is None else TeamKeys(team_id).audit
        end = "+" if after is None else f"({after}"
        found: list[Any] = []
        while len(found) <= limit:
            count = min(_PAGE, limit + 1 - len(found))
            async with self._store.large_reads:
                page = (await gather([self._store.run("XREVRANGE", name, end, "-", "COUNT", str(count))]))[0]
            found += page
            if len(page) < count:
                break
            end = f"({page[-1][0].decode()}"
        actions = [_action(entry_id, fields) for entry_id, fields in found]
        once = {(action.request_id, action.action): action for action in actions[:limit]}
        return Page(tuple(once.values()), actions[limit - 1].id if len(actions) > limit else None)


def _text(value: Any) -> str:
    text = _SECRET.sub(REDACTED, orjson.dumps(value).decode())
    return text if len(text) <= _MAX_TEXT_CHARACTERS else orjson.dumps({"cut": text[:_MAX_TEXT_CHARACTERS]}).decode()


def _action(entry_id: bytes, flat: list[bytes]) -> Action:
    words = [word.decode() for word in flat]
    fields = dict(zip(words[::2], words[1::2], strict=True))
    return Action(
        actor=fields["actor"],
        actor_name=fields["actor_name"],
        action=fields["action"],
        subject=fields["subject"],
        team_id=fields["team"],
        before=orjson.loads(fields["before"]),
        after=orjson.loads(fields["after"]),
        request_id=fields["request_id"],
        id=entry_id.decode(),
        at_ms=int(entry_id.partition(b"-")[0]),
    )
