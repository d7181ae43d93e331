"""Encrypts what the gateway keeps of a team, and what it gives to clients and takes back from them: compaction items.

    SealingKeys(secrets, purpose)    seals with the first key and opens with each: AES-256-GCM (NIST SP 800-38D)
    CompactionKeys               the ring for compaction items: the operator's keys, or one that is made once

A key of each purpose is derived from each secret (HKDF-SHA-256, RFC 5869). What was sealed for one team can be opened
for that team alone, because its id is authenticated with it. The form is: a version byte, the key's number (4 bytes),
the nonce (12 bytes), the encrypted data with its tag.
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
    """Keys of one purpose. The first one seals; each opens what it has sealed, so that keys can be replaced."""

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
    """Seals texts that clients keep. Mutable: the ring, once it is known.

    Without keys of the operator's, one key is made at the first use and kept in the store, where all workers find it.
    It stays there, because clients may keep what it has sealed for as long as they like.
    """

    def __init__(self, store: Store, secrets: Sequence[bytes]) -> None:
        self._store = store
        self._secrets = tuple(secrets)
        self._ring: SealingKeys | None = None

    async def ring(self) -> SealingKeys:
        """Returns the keys. Raises GatewayError `store_unavailable`."""
        if self._ring is None:
            made = os.urandom(_KEY_BYTES).hex()
            calls = [] if self._secrets else [self._store.run("SET", SEALING_KEY, made, "NX")]
            kept: bytes | None = (await gather([*calls, self._store.run("GET", SEALING_KEY)]))[-1]
            self._ring = SealingKeys([*self._secrets, *([] if kept is None else [kept])], COMPACTION)
        return self._ring


def seal_text(ring: SealingKeys, text: str, team_id: str) -> str:
    """Returns a text that nobody but this gateway can open again, for this team."""
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
