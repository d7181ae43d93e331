"""The last refusals of each team, with their reasons. They are written in batches, off the warm path.

    gw:{T}:refused   stream: id, key, status, code, message, limit, scope, model, detail, client,
                     asked, timings, end_user, at (if it was written later); bounded in number and in time

A refused request has no hold and no journal entry. This stream answers "why was I refused?". A refusal is kept only if
the presented secret belongs to the key. That includes revoked and expired keys, until a rotation removes the secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import orjson

from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather, gather_pages
from gateway.store.script import Script
from gateway.store.store import Store

REFUSED: Final = Script.load("refused_v1")
_BATCH_SIZE: Final = 64
_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """One refusal.

    `limit`, `scope` and `model` are "" where they do not apply. `detail` is what only operators read: why a key was not
    valid, why no upstream was available. `id` and `at_ms` are those of the stream, once stored. `refused_ms` is when it
    was refused, if the store could not take it then; otherwise 0. `end_user` as reports show it.
    """

    request_id: str
    team_id: str
    key_id: str
    status: int
    code: str
    message: str
    limit: str
    scope: str
    model: str
    detail: str = ""
    client: str = ""
    asked_model: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    id: str = ""
    at_ms: int = 0
    refused_ms: int = 0
    end_user: str = ""


class RefusedRequests:
    """The refusals of all teams in one store. Raises GatewayError `store_unavailable`."""

    def __init__(self, store: Store, *, max_entries: int, retention_s: int) -> None:
        self._store = store
        self._max_entries = str(max_entries)
        self._retention_ms = str(retention_s * 1000)

    async def write(self, refusals: Sequence[tuple[str, RefusedRequest]]) -> None:
        """Stores refusals, each with the SHA-256 of the presented secret."""
        calls = []
        for secret_hash, refused in refusals:
            names = TeamKeys(refused.team_id)
            fields = {
                "request": refused.request_id,
                "key": refused.key_id,
                "status": str(refused.status),
                "code": refused.code,
                "message": refused.message,
                "limit": refused.limit,
                "scope": refused.scope,
                "model": refused.model,
                "detail": refused.detail,
                "client": refused.client,
                "asked": refused.asked_model,
                "timings": orjson.dumps(dict(refused.timings)).decode(),
            }
            if refused.end_user:
                fields["end_user"] = refused.end_user
            if refused.refused_ms:
                fields["at"] = str(refused.refused_ms)
            words = [word for pair in fields.items() for word in pair]
            args = [secret_hash, self._max_entries, self._retention_ms, *words]
            calls.append(self._store.call(REFUSED, [names.key(refused.key_id), names.refused], args))
        await gather(calls)


async def find_refused(store: Store, team_ids: Sequence[str], request_id: str) -> RefusedRequest | None:
    """Searches the teams' streams for a refusal, newest first. Raises GatewayError `store_unavailable`."""
    wanted = request_id.encode()
    waiting = [(team_id, "+") for team_id in team_ids]
    while waiting:
        part, waiting = waiting[:_BATCH_SIZE], waiting[_BATCH_SIZE:]
        names = [(TeamKeys(team_id).refused, end) for team_id, end in part]
        calls = [partial(store.run, "XREVRANGE", name, end, "-", "COUNT", str(_PAGE)) for name, end in names]
        pages = await gather_pages(store, calls)
        for (team_id, _), page in zip(part, pages, strict=True):
            for entry_id, fields in page:
                if fields[1] == wanted:
                    return read_refused(team_id, entry_id, fields)
            if len(page) == _PAGE:
                waiting.append((team_id, f"({page[-1][0].decode()}"))
    return None


def read_refused(team_id: str, entry_id: bytes, flat: list[bytes]) -> RefusedRequest:
    """Reads an entry of a team's stream."""
    words = [word.decode(errors="replace") for word in flat]
    fields = dict(zip(words[::2], words[1::2], strict=True))
    return RefusedRequest(
        request_id=fields["request"],
        team_id=team_id,
        key_id=fields["key"],
        status=int(fields["status"]),
        code=fields["code"],
        message=fields["message"],
        limit=fields["limit"],
        scope=fields["scope"],
        model=fields["model"],
        detail=fields.get("detail", ""),  # entries of earlier versions have none of these
        client=fields.get("client", ""),
        asked_model=fields.get("asked", ""),
        timings=orjson.loads(fields.get("timings") or "{}"),
        id=entry_id.decode(),
        at_ms=int(entry_id.partition(b"-")[0]),
        refused_ms=int(fields.get("at", "0")),
        end_user=fields.get("end_user", ""),
    )
