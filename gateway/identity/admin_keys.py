"""The format of admin keys, which are for people and programs that run the gateway.

    sk-gwa-<id>-<secret><checksum>
           10   43 base62 8 hex      like an API key, without a team

The root admin key is part of the configuration and may have any form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gateway.identity.api_keys import ID_LENGTH, SECRET_LENGTH, checksum, hash_of, secret_text

PREFIX: Final = "sk-gwa-"
_FORMAT: Final = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{ID_LENGTH}}})-([0-9A-Za-z]{{{SECRET_LENGTH}}})([0-9a-f]{{8}})")


@dataclass(frozen=True, slots=True)
class AdminKey:
    """A well-formed admin key. Only the store knows whether it is valid."""

    id: str
    secret_hash: str


def new_admin_secret(admin_id: str, seed: bytes | None = None) -> tuple[str, str]:
    """Creates an admin key. Returns the key, which is shown once, and the SHA-256 of its secret.

    `seed` as in `api_keys.new_secret`.
    """
    secret = secret_text(seed)
    text = f"{PREFIX}{admin_id}-{secret}"
    return f"{text}{checksum(text)}", hash_of(secret)


def parse_admin_key(text: str) -> AdminKey | None:
    """Returns the parts of an admin key, or None if its form or its checksum is wrong."""
    match = _FORMAT.fullmatch(text)
    if match is None or checksum(text[:-8]) != match[3]:
        return None
    return AdminKey(match[1], hash_of(match[2]))
