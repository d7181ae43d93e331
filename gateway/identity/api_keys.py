"""The format of API keys, and how to create one.

    sk-gw-<team_id>-<key_id>-<secret><checksum>
          10 base62  10 base62 43 base62 8 hex

A key names its team, and so its slot in the store. The secret holds more than 256 bits, and only its SHA-256 is stored.
The checksum (CRC-32 of everything before it) lets the gateway refuse a malformed key without asking the store. It gives
no protection.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gateway.errors import Cause, GatewayError
from gateway.protocol.timestamps import iso_time

ALPHABET: Final = string.digits + string.ascii_letters
ID_LENGTH: Final = 10
SECRET_LENGTH: Final = 43  # 62**43 > 2**256
_BARE_KEY_HEADERS: Final = frozenset({b"api-key", b"x-api-key"})
"""Headers that carry a key without a scheme such as `Bearer`."""
_FORMAT: Final = re.compile(
    rf"sk-gw-([0-9A-Za-z]{{{ID_LENGTH}}})-([0-9A-Za-z]{{{ID_LENGTH}}})-([0-9A-Za-z]{{{SECRET_LENGTH}}})([0-9a-f]{{8}})"
)
_HOW_TO_SEND: Final = "Send 'Authorization: Bearer sk-gw-...'."
_OTHER_SCHEMES: Final = frozenset({"basic", "digest", "token", "apikey", "negotiate"})
_ID: Final = re.compile(rf"[0-9A-Za-z]{{{ID_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A well-formed API key. It may be unknown, revoked or expired: the admission script decides that."""

    team_id: str
    key_id: str
    secret_hash: str


INVALID_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "no_key": "no key was sent",
        "no_scheme": "the key was sent without 'Bearer', or by another scheme",
        "two_keys": "two keys were sent that differ",
        "malformed": "no key of this gateway has this form",
        "unknown_key": "there is no such key",
        "unknown_team": "there is no such team",
        "unknown_secret": "the key exists, and this is not one of its secrets",
        "secret_ended": "the secret was rotated out",
        "key_disabled": "key disabled",
        "key_revoked": "key revoked",
        "key_archived": "key deleted",
        "key_expired": "key expired",
        "team_disabled": "team disabled",
        "team_archived": "team deleted",
        "team_expired": "team expired",
    }
)
"""Why a key is not valid, for operators: the word of the scripts (key_status.lua) and of metrics, and the text."""


def invalid_api_key(reason: str = "malformed", since_ms: int = 0) -> GatewayError:
    """Returns the error for a key that is not valid.

    The client reads the same for every reason, so that it reveals nothing. The detail for operators says which it was.
    """
    since = f" {iso_time(since_ms)}" if since_ms else ""
    return GatewayError(
        "invalid_api_key",
        "The API key is not valid. Send 'Authorization: Bearer sk-gw-...'.",
        cause=Cause(reason, f"{INVALID_KEYS.get(reason, reason)}{since}"),
    )


def new_id() -> str:
    """Returns a new random id of a team or key."""
    return "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH))


def is_id(text: str) -> bool:
    """Whether the text has the form of the id of a team or key."""
    return _ID.fullmatch(text) is not None


def new_secret(team_id: str, key_id: str, seed: bytes | None = None) -> tuple[str, str]:
    """Creates an API key. Returns the key, which is shown once, and the SHA-256 of its secret, which is stored.

    The secret is random, or derived from `seed`: 64 secret bytes that give the same key each time.
    """
    secret = secret_text(seed)
    text = f"sk-gw-{team_id}-{key_id}-{secret}"
    return f"{text}{checksum(text)}", hash_of(secret)


def secret_text(seed: bytes | None = None) -> str:
    """Returns the letters of a secret, random or derived from a seed of 64 bytes."""
    number = secrets.randbits(512) if seed is None else int.from_bytes(seed)
    secret = ""
    for _ in range(SECRET_LENGTH):  # of 2**512 values, so that no letter is likelier than another by more than 2**-250
        number, letter = divmod(number, len(ALPHABET))
        secret += ALPHABET[letter]
    return secret


def parse_api_key(text: str) -> ApiKey:
    """Returns the parts of a presented key. Raises GatewayError `invalid_api_key` if it is malformed."""
    match = _FORMAT.fullmatch(text)
    if match is None:
        raise invalid_api_key()
    team_id, key_id, secret, check = match.groups()
    if checksum(text[:-8]) != check:
        raise invalid_api_key()
    return ApiKey(team_id, key_id, hash_of(secret))


def key_of_request(headers: Mapping[bytes, bytes]) -> ApiKey:
    """Step 1: returns the key that a request carries, in any of the headers in which SDKs send one.

    `Authorization: Bearer` is OpenAI's, `api-key` Azure's, `x-api-key` Anthropic's. A program may send the same key in
    two of them. Two different keys are refused, because it is not clear which one counts. Raises GatewayError
    `invalid_api_key`.
    """
    authorization = headers.get(b"authorization")
    found = (
        {value for name in _BARE_KEY_HEADERS if (value := headers.get(name))}
        if not _BARE_KEY_HEADERS.isdisjoint(headers)
        else None
    )
    if not found:
        return parse_authorization(None if authorization is None else authorization.decode("latin-1"))
    keys = {parse_api_key(text.decode("latin-1").strip()) for text in found}
    if authorization is not None:
        keys.add(parse_authorization(authorization.decode("latin-1")))
    if len(keys) > 1:
        raise _unusable("The request carries two API keys that differ. Send one.", "two_keys")
    return keys.pop()


def parse_authorization(authorization: str | None) -> ApiKey:
    """Returns the key in an `Authorization` header. Raises GatewayError `invalid_api_key`."""
    if authorization is None or not authorization.strip():
        raise _unusable(f"No API key was sent. {_HOW_TO_SEND}", "no_key")
    scheme, _, text = authorization.partition(" ")
    if scheme != "Bearer" and scheme.lower() != "bearer":
        # What is no usual scheme may be the key itself, which no answer repeats.
        named = f" by the scheme {scheme!r}" if scheme.lower() in _OTHER_SCHEMES else " without 'Bearer'"
        raise _unusable(f"The API key was sent{named}. {_HOW_TO_SEND}", "no_scheme")
    if not text.strip():
        raise _unusable(f"No API key was sent. {_HOW_TO_SEND}", "no_key")
    return parse_api_key(text.strip())


def _unusable(message: str, reason: str) -> GatewayError:
    return GatewayError("invalid_api_key", message, cause=Cause(reason, INVALID_KEYS[reason]))


def checksum(text: str) -> str:
    """Returns the CRC-32 of a key's text in 8 hexadecimal digits."""
    return f"{zlib.crc32(text.encode()):08x}"


def hash_of(secret: str) -> str:
    """Returns what is stored of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()
