"""Dashboard sessions, and the bound for failed sign-ins of an address.

    gw:session:<sha256 of the token>   "<admin id> <start, ms> <proof>"   TTL: the idle timeout; renewed by use
    gw:sign-in:<sha256 of the host>    number of wrong keys               TTL: the window

The token exists only in the browser's cookie. `proof` is HMAC(token, root key). It ties a session of the root key to
that key, so that changing the root key ends its sessions. After an admin key is deleted or expires, the next request of
its sessions is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import Final

from gateway.accounts.admin_keys import ROOT, Admin, Admins
from gateway.errors import GatewayError
from gateway.store import keyspace
from gateway.store.replies import gather
from gateway.store.store import Store

MAX_SESSION_S: Final = 12 * 3600  # however active the session is
WINDOW_S: Final = 300
MAX_TOKEN: Final = 64
SIGNED_IN: Final = "gateway.signed_in"
"""The field of an ASGI scope that holds the Admin of a verified session. No client can set it."""


class Sessions:
    """The sessions of one store. Raises GatewayError `store_unavailable` if the store is unavailable."""

    def __init__(self, store: Store, admins: Admins, *, ttl_s: int, max_attempts: int) -> None:
        self._store = store
        self._admins = admins
        self._ttl_ms = str(ttl_s * 1000)
        self._max_attempts = max_attempts

    async def open(self, admin_id: str, root_key: bytes) -> str:
        """Starts a session and returns its token."""
        token = secrets.token_urlsafe(32)
        value = f"{admin_id} {_now_ms()} {_proof(token, admin_id, root_key)}"
        await gather([self._store.run("SET", keyspace.session(token), value, "PX", self._ttl_ms)])
        return token

    async def find(self, token: str, root_key: bytes) -> Admin | None:
        """Returns the admin of a session, or None if the session or its admin key has ended."""
        if not 0 < len(token) <= MAX_TOKEN:
            return None
        stored = (await gather([self._store.run("GETEX", keyspace.session(token), "PX", self._ttl_ms)]))[0]
        if stored is None:
            return None
        admin_id, started_ms, proof = stored.decode().split(" ")
        now_ms = _now_ms()
        if now_ms >= int(started_ms) + MAX_SESSION_S * 1000:
            return None
        if admin_id == ROOT.id:
            return ROOT if hmac.compare_digest(proof, _proof(token, admin_id, root_key)) else None
        try:
            admin = await self._admins.admin(admin_id)
        except GatewayError as error:
            if error.code == "admin_key_not_found":
                return None
            raise
        return None if admin.expires_ms and now_ms >= admin.expires_ms else admin

    async def close(self, token: str) -> None:
        """Ends a session."""
        await gather([self._store.run("DEL", keyspace.session(token))])

    async def count_failure(self, host: str) -> None:
        """Counts an attempt to sign in with a wrong key. A right key always signs in, so that nobody can lock it out.

        Raises GatewayError `rate_limit_exceeded` if there were too many.
        """
        await self._count(host, self._max_attempts)

    async def count_attempt(self, host: str, what: str = "sign-ins", factor: int = 1) -> None:
        """Counts a step of a sign-in at the identity provider. `factor` times as many steps are allowed as wrong keys.

        Raises GatewayError `rate_limit_exceeded` if there were too many.
        """
        await self._count(f"{what} {host}", factor * self._max_attempts)

    async def _count(self, counter: str, max_attempts: int) -> None:
        name = keyspace.sign_in(counter)
        # Both commands go out in one write. PEXPIRE sets a TTL on a new key only, so no counter is left without one.
        replies = await gather(
            [
                self._store.run("INCR", name),
                self._store.run("PEXPIRE", name, str(WINDOW_S * 1000), "NX"),
                self._store.run("PTTL", name),
            ]
        )
        if replies[0] > max_attempts:
            wait_ms = max(1, replies[2])
            raise GatewayError(
                "rate_limit_exceeded",
                f"Too many attempts to sign in from this address. Try again in {-(-wait_ms // 1000)} s.",
                wait_ms=wait_ms,
            )


def _proof(token: str, admin_id: str, root_key: bytes) -> str:
    return hmac.new(token.encode(), root_key, hashlib.sha256).hexdigest() if admin_id == ROOT.id else "-"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
