"""Encrypts the stored state of teams, and compaction items, which clients keep and send back.

    SealingKeys(secrets, purpose)    seals with the first key and opens with each: AES-256-GCM (NIST SP 800-38D)
    CompactionKeys                   the key ring for compaction items: the operator's keys, or one that is made once

A key for each purpose is derived from each secret (HKDF-SHA-256, RFC 5869). Sealed data can be opened only for its
team, because the team's id is authenticated with it. The format is: a version byte, the key's number (4 bytes), the
nonce (12 bytes), and the encrypted data with its tag.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.store.keyspace import SEALING_KEY
from gateway.store.replies import gather
from gateway.store.store import Store

STATE: Final = "state"
COMPACTION: Final = "compaction"
_VERSION: Final = b"\x01"
_NUMBER_BYTES: Final = 4
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_HEAD_BYTES: Final = 1 + _NUMBER_BYTES + _NONCE_BYTES


class SealingKeys:
    """Keys for one purpose.

    The first one seals. Every key can open what it has sealed, so that keys can be replaced.
    """

    def __init__(self, secrets: Sequence[bytes], purpose: str) -> None:
        derived = [_derived(secret, purpose) for secret in secrets]
        self._keys = {hashlib.sha256(key).digest()[:_NUMBER_BYTES]: AESGCM(key) for key in derived}
        self._first = next(iter(self._keys))
        self._purpose = purpose

    def seal(self, data: bytes, team_id: str) -> bytes:
        """Encrypts data for a team."""
        head = _VERSION + self._first + os.urandom(_NONCE_BYTES)
        sealed = self._keys[self._first].encrypt(head[-_NONCE_BYTES:], data, self._bound(team_id))
        return head + sealed

    def open(self, data: bytes, team_id: str) -> bytes:
        """Decrypts data. Raises ValueError if it was not sealed for this team with one of these keys."""
        number, nonce = data[1 : 1 + _NUMBER_BYTES], data[1 + _NUMBER_BYTES : _HEAD_BYTES]
        key = self._keys.get(number) if data[:1] == _VERSION else None
        if key is None:
            raise ValueError("sealed with a key that is not here")
        try:
            return key.decrypt(nonce, data[_HEAD_BYTES:], self._bound(team_id))
        except (InvalidTag, ValueError):
            raise ValueError("not sealed for this team, or changed since") from None

    def _bound(self, team_id: str) -> bytes:
        return f"{self._purpose}/{team_id}".encode()


class CompactionKeys:
    """The keys that seal texts for clients. Mutable: the key ring, once it is known.

    If the operator has set no keys, one key is made at the first use and kept in the store, where all workers find it.
    It is never deleted, because clients may keep sealed texts for any time.
    """

    def __init__(self, store: Store, secrets: Sequence[bytes]) -> None:
        self._store = store
        self._secrets = tuple(secrets)
        self._ring: SealingKeys | None = None

    async def ring(self) -> SealingKeys:
        """Returns the keys. Raises GatewayError `store_unavailable`."""
        if self._ring is None:
            new_key = os.urandom(_KEY_BYTES).hex()
            calls = [] if self._secrets else [self._store.run("SET", SEALING_KEY, new_key, "NX")]
            kept: bytes | None = (await gather([*calls, self._store.run("GET", SEALING_KEY)]))[-1]
            self._ring = SealingKeys([*self._secrets, *([] if kept is None else [kept])], COMPACTION)
        return self._ring


def seal_text(ring: SealingKeys, text: str, team_id: str) -> str:
    """Returns a sealed text that only this gateway can open, for this team."""
    return base64.urlsafe_b64encode(ring.seal(text.encode("utf-8", "surrogatepass"), team_id)).decode("ascii")


def open_text(ring: SealingKeys, sealed: str, team_id: str) -> str:
    """Returns the text that was sealed. Raises ValueError."""
    try:
        data = base64.b64decode(sealed.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not sealed by this gateway") from None
    return ring.open(data, team_id).decode("utf-8", "surrogatepass")


def _derived(secret: bytes, purpose: str) -> bytes:
    info = f"openresponses-gateway/{purpose}".encode()
    return HKDF(algorithm=hashes.SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(secret)
