"""Admin keys created through the API. Each has one scope and is stored as a SHA-256. The root key is configuration.

scope    permits
all      everything that the root key permits, with the exceptions of the access table
read     reading everything
team     managing one team: its keys within its quotas, and its usage

gw:admin:<id>    name, scope, team, secret (SHA-256), expires_ms, created_ms, created_by, used_ms,
                 subject (only if a sign-in created the key; the store deletes such a key when it expires),
                 s:<SHA-256> and e:<SHA-256> of earlier secrets (admin_rotate_v1)

A new key is added to the list before it is stored. A deleted key is removed from the list last. A place in the list
without a key therefore belongs to a change that died, or to a creation that still runs. Reading the list removes the
place when no creation can need it any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import structlog

from gateway.accounts.idempotency import IdempotencyKey, claim
from gateway.accounts.rotation import MAX_SECRETS, too_many_secrets
from gateway.errors import GatewayError
from gateway.identity.admin_keys import AdminKey, new_admin_secret
from gateway.identity.api_keys import is_id, new_id
from gateway.store import keyspace
from gateway.store.replies import gather
from gateway.store.script import Script
from gateway.store.store import Store

CREATE: Final = Script.load("admin_create_v2")
USE: Final = Script.load("admin_use_v2")
ROTATE: Final = Script.load("admin_rotate_v1")
MAX_ADMIN_KEYS: Final = 1000
MAX_SIGN_INS: Final = 10
SCOPES: Final = ("all", "read", "team")
_USE_RECORDED_EVERY_MS: Final = 60_000
_CREATED_WITHIN_S: Final = 10.0
_NO_KEY, _TOO_MANY = 0, -4
_ENDING: Final = "s:"
_ABANDONED_MS: Final = 60_000
"""Age at which a place in the list without a key is removed. Creations end within _CREATED_WITHIN_S."""


class EndingSecret(NamedTuple):
    """A secret that a rotation replaced. It works until `until_ms`."""

    sha256: str
    until_ms: int


@dataclass(frozen=True, slots=True)
class Admin:
    """An admin key.

    `team_id` is "" unless the scope is "team". An `expires_ms` of 0 means that the key does not expire. `used_ms` is
    the last use to the minute, or 0 for never. `ending` are earlier secrets that still work.
    `subject` is the person whose sign-in at the identity provider created the key, or "".
    """

    id: str
    name: str
    scope: str
    team_id: str
    expires_ms: int
    created_ms: int
    created_by: str
    used_ms: int
    ending: tuple[EndingSecret, ...] = ()
    subject: str = ""


ROOT: Final = Admin("root", "root", "all", "", 0, 0, "", 0)
"""The holder of the root admin key, which is part of the configuration."""


class Admins:
    """The admin keys in one store. Raises GatewayError, with `store_unavailable` if the store is unavailable.

    Mutable: `sign_ins` counts the "right" and "wrong" keys that were presented to this worker.
    """

    def __init__(self, store: Store, *, idempotency_ttl_s: int) -> None:
        self.sign_ins: Counter[str] = Counter()
        self._log = structlog.get_logger("gateway.admin")
        self._store = store
        self._idempotency_ttl_ms = idempotency_ttl_s * 1000

    def note_sign_in(self, address: str, *, right: bool) -> None:
        """Counts a presented key. If it is wrong, logs the attempt without the key."""
        self.sign_ins["right" if right else "wrong"] += 1
        if not right:
            self._log.warning("admin_sign_in_failed", address=address)

    async def create(
        self,
        name: str,
        scope: str,
        *,
        team_id: str,
        expires_ms: int,
        created_by: str,
        idempotency_key: IdempotencyKey | None = None,
    ) -> tuple[Admin, str]:
        """Creates an admin key and returns it with its text, which is not stored.

        A repeated request returns the same text, or "" if the pepper has changed since.
        """
        admin_id, seed = new_id(), None
        if idempotency_key is not None:
            claimed = keyspace.creation(idempotency_key.key)
            admin_id, salt = await claim(self._store, claimed, admin_id, idempotency_key, self._idempotency_ttl_ms)
            seed = idempotency_key.seed(salt)
        text, secret_hash = new_admin_secret(admin_id, seed)
        stored = await self._fields(admin_id)
        if not stored:
            fields = _settings_of(name, scope, team_id, secret_hash, expires_ms) | {"created_by": created_by}
            stored = await self._put(admin_id, await self._now_ms(), fields)
        return _admin(admin_id, stored), text if stored["secret"] == secret_hash else ""

    async def sign_in(self, name: str, scope: str, *, team_id: str, subject: str, lasts_s: int) -> tuple[Admin, str]:
        """Creates an admin key for a person, `subject` at the identity provider. The store deletes it after `lasts_s`.

        A person has at most MAX_SIGN_INS of them. A further sign-in deletes the oldest.
        """
        own = [admin for admin in await self.admins() if admin.subject == subject]
        for oldest in own[: max(0, len(own) + 1 - MAX_SIGN_INS)]:
            await self.delete(oldest)
        admin_id, now_ms = new_id(), await self._now_ms()
        text, secret_hash = new_admin_secret(admin_id, None)
        expires_ms = now_ms + lasts_s * 1000
        fields = _settings_of(name, scope, team_id, secret_hash, expires_ms) | {"subject": subject}
        return _admin(admin_id, await self._put(admin_id, now_ms, fields, str(expires_ms))), text

    async def _put(
        self, admin_id: str, created_ms: int, fields: Mapping[str, str], delete_ms: str = ""
    ) -> dict[str, str]:
        """Adds a new admin key to the list and stores it. Returns the stored fields."""
        listed = await self._run("ZCARD", keyspace.ADMINS)
        if listed >= MAX_ADMIN_KEYS and len(await self.admins()) >= MAX_ADMIN_KEYS:
            raise GatewayError("not_allowed", f"There are {MAX_ADMIN_KEYS} admin keys. Delete one first.")
        name_of_key = keyspace.admin(admin_id)
        self._store.note_clock(name_of_key, await self._now_ms(name_of_key))  # it may have jumped ahead
        run_by_ms = self._store.run_by_ms(name_of_key, _CREATED_WITHIN_S)
        await self._run("ZADD", keyspace.ADMINS, str(created_ms), admin_id)
        words = [word for pair in {**fields, "created_ms": str(created_ms)}.items() for word in pair]
        await gather([self._store.call(CREATE, [name_of_key], [run_by_ms, delete_ms, *words])])
        stored = await self._fields(admin_id)
        if not stored:  # the script ran too late, or the key was deleted at once
            raise GatewayError("store_unavailable", "The admin key was not created. Try again.", wait_ms=1000)
        return stored

    async def admins(self) -> list[Admin]:
        """Returns all admin keys, oldest first."""
        listed = await self._run("ZRANGE", keyspace.ADMINS, "0", "-1", "WITHSCORES")
        ids = [raw.decode() for raw in listed[::2]]
        replies = await gather([self._store.run("HGETALL", keyspace.admin(admin_id)) for admin_id in ids])
        found, abandoned = [], []
        for admin_id, created_ms, stored in zip(ids, listed[1::2], map(_pairs, replies), strict=True):
            if stored:
                found.append(_admin(admin_id, stored))
            else:
                abandoned.append((admin_id, float(created_ms)))
        if abandoned:
            now_ms = await self._now_ms()
            old = [admin_id for admin_id, created_ms in abandoned if now_ms - created_ms > _ABANDONED_MS]
            await gather([self._store.run("ZREM", keyspace.ADMINS, admin_id) for admin_id in old])
        return found

    async def admin(self, admin_id: str) -> Admin:
        """Returns one admin key. Raises `admin_key_not_found`."""
        stored = await self._fields(admin_id) if is_id(admin_id) else {}
        if not stored:
            raise _not_found(admin_id)
        return _admin(admin_id, stored)

    async def rotate(
        self, admin: Admin, overlap_s: int, idempotency_key: IdempotencyKey | None = None
    ) -> tuple[Admin, str]:
        """Gives an admin key a new secret. Returns it with its new text, which is not stored.

        The other secrets work for another `overlap_s`, as after the rotation of an API key (rotation.py). The text is
        "" for a repeat that arrives after its secret was replaced. Raises `admin_key_not_found`, `too_many_secrets`.
        """
        seed = None
        if idempotency_key is not None:
            claimed = keyspace.creation(idempotency_key.key)
            _, salt = await claim(self._store, claimed, admin.id, idempotency_key, self._idempotency_ttl_ms)
            seed = idempotency_key.seed(salt)
        text, secret_hash = new_admin_secret(admin.id, seed)
        args = [secret_hash, str(overlap_s * 1000), str(MAX_SECRETS)]
        status, wait_ms = (await gather([self._store.call(ROTATE, [keyspace.admin(admin.id)], args)]))[0]
        if status == _NO_KEY:
            raise _not_found(admin.id)
        if status == _TOO_MANY:
            raise too_many_secrets(wait_ms)
        stored = await self._fields(admin.id)
        return _admin(admin.id, stored), text if stored.get("secret") == secret_hash else ""

    async def delete(self, admin: Admin) -> None:
        """Deletes an admin key. Its next request is refused."""
        await self._run("DEL", keyspace.admin(admin.id))
        await self._run("ZREM", keyspace.ADMINS, admin.id)

    async def recognise(self, presented: AdminKey) -> Admin | None:
        """Returns the active admin key that was presented, or None. Records the time of its use."""
        args = [presented.secret_hash, str(_USE_RECORDED_EVERY_MS)]
        now_ms, *flat = (await gather([self._store.call(USE, [keyspace.admin(presented.id)], args)]))[0]
        if not flat:
            return None
        admin = _admin(presented.id, _pairs(flat), now_ms)
        return None if admin.expires_ms and now_ms >= admin.expires_ms else admin

    async def _fields(self, admin_id: str) -> dict[str, str]:
        return _pairs(await self._run("HGETALL", keyspace.admin(admin_id)))

    async def _now_ms(self, key: str = keyspace.ADMINS) -> int:
        seconds, micros = (await gather([self._store.run("TIME", key=key)]))[0]
        return int(seconds) * 1000 + int(micros) // 1000

    async def _run(self, *command: str) -> Any:
        return (await gather([self._store.run(*command)]))[0]


def _pairs(flat: list[bytes]) -> dict[str, str]:
    words = [word.decode() for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))


def _settings_of(name: str, scope: str, team_id: str, secret_hash: str, expires_ms: int) -> dict[str, str]:
    return {
        "name": name,
        "scope": scope,
        "team": team_id,
        "secret": secret_hash,
        "expires_ms": str(expires_ms),
    }


def _not_found(admin_id: str) -> GatewayError:
    return GatewayError("admin_key_not_found", f"There is no admin key {admin_id!r}.")


def _admin(admin_id: str, stored: Mapping[str, str], now_ms: int = 0) -> Admin:
    ending = [
        EndingSecret(name.removeprefix(_ENDING), int(until_ms))
        for name, until_ms in stored.items()
        if name.startswith(_ENDING) and int(until_ms) > now_ms
    ]
    return Admin(
        id=admin_id,
        name=stored.get("name", ""),
        scope=stored.get("scope", ""),
        team_id=stored.get("team", ""),
        expires_ms=int(stored.get("expires_ms", "0")),
        created_ms=int(stored.get("created_ms", "0")),
        created_by=stored.get("created_by", ""),
        used_ms=int(stored.get("used_ms", "0")),
        subject=stored.get("subject", ""),
        ending=tuple(sorted(ending, key=lambda secret: secret.until_ms)),
    )
