"""Rotation: a key gets a new secret. Its id, limits, budgets and spend stay the same.

    new secret     works at once, for as long as the key does
    old secrets    work until the end of the overlap that their own rotation set; an overlap of 0 ends them all now
    MAX_SECRETS    secrets at most are valid at once; the error for one more has the time at which the next one ends

With an idempotency key, a repeated rotation returns the same secret, although no secret is stored. The secret is
derived from the idempotency key, a random salt in the claim `gw:{T}:rotated:<sha256>`, and the operator's pepper
(`IdempotencyKey.seed`). A lost reply therefore leaves no unknown valid secret: the repeat returns it. A copy of the
store reveals no secret, because the store knows neither the pepper nor the idempotency key. rotate_v1 marks the claim
"done" in the same step that adds the secret. A repeat that arrives after a later rotation therefore gets no secret and
restores none.
"""

from __future__ import annotations

from typing import Final

from gateway.accounts.accounts import Accounts
from gateway.accounts.entities import ARCHIVED, Key, Team
from gateway.accounts.idempotency import IdempotencyKey, claim
from gateway.errors import GatewayError
from gateway.identity.api_keys import new_secret
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather
from gateway.store.script import Script
from gateway.store.store import Store

ROTATE: Final = Script.load("rotate_v1")
MAX_SECRETS: Final = 5
MAX_OVERLAP_S: Final = 90 * 86_400
_NO_KEY, _REVOKED, _TOO_MANY = 0, -3, -4


class Rotation:
    """Gives keys new secrets. Raises GatewayError, with `store_unavailable` if the store is unavailable."""

    def __init__(self, store: Store, accounts: Accounts, *, idempotency_ttl_s: int) -> None:
        self._store = store
        self._accounts = accounts
        self._idempotency_ttl_ms = idempotency_ttl_s * 1000

    async def rotate(
        self, team: Team, key: Key, overlap_s: int, idempotency_key: IdempotencyKey | None = None
    ) -> tuple[Key, str]:
        """Returns the rotated key and its new text, which is not stored.

        The text is "" for a repeat that arrives after its secret was replaced, or after the pepper has changed. Raises
        `key_not_found`, `not_allowed` (the key was revoked or deleted), `too_many_secrets`, `idempotency_mismatch`.
        """
        names = TeamKeys(team.id)
        keys, seed = [names.key(key.id)], None
        if idempotency_key is not None:
            keys.append(names.rotated(idempotency_key.key))
            _, salt = await claim(self._store, keys[1], key.id, idempotency_key, self._idempotency_ttl_ms)
            seed = idempotency_key.seed(salt)
        if key.status == ARCHIVED:
            raise _ended("deleted")
        text, secret_hash = new_secret(team.id, key.id, seed)
        call = self._store.call(ROTATE, keys, [secret_hash, str(overlap_s * 1000), str(MAX_SECRETS)])
        status, _version, wait_ms = (await gather([call]))[0]
        if status == _NO_KEY:
            raise GatewayError("key_not_found", f"The team {team.name!r} has no key {key.id!r}.")
        if status == _REVOKED:
            raise _ended("permanently revoked")
        if status == _TOO_MANY:
            raise too_many_secrets(wait_ms)
        rotated = await self._accounts.key(team, key.id)
        return rotated, text if any(secret.sha256 == secret_hash for secret in rotated.secrets) else ""


def too_many_secrets(wait_ms: int) -> GatewayError:
    """Returns the error for a key with MAX_SECRETS valid secrets. `wait_ms` is the time until the next one ends."""
    return GatewayError(
        "too_many_secrets",
        f"This key has {MAX_SECRETS} secrets that work; the next one ends in {-(-wait_ms // 1000)} s. "
        "Rotate with an overlap of 0 to end them all now.",
        param="overlap_s",
        wait_ms=wait_ms,
    )


def _ended(how: str) -> GatewayError:
    return GatewayError("not_allowed", f"This key is {how}. Create a new one.")
