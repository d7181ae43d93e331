"""Admin keys: for people and programs that run the gateway, not for requests to models.

    sk-gwa-<id>-<secret><checksum>
           10   43 base62 8 hex      as an API key's, without a team

The root admin key is configuration and has any form.
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
    """A well-formed admin key as presented; the store knows whether it lives."""

    id: str
    secret_hash: str


def new_admin_secret(admin_id: str, seed: bytes | None = None) -> tuple[str, str]:
    """An admin key: (the key, to be shown once; the SHA-256 of its secret). `seed` as in `new_secret`."""
    secret = secret_text(seed)
    text = f"{PREFIX}{admin_id}-{secret}"
    return f"{text}{checksum(text)}", hash_of(secret)


def parse_admin_key(text: str) -> AdminKey | None:
    """The parts of a presented admin key; None where it has another form or a wrong checksum."""
    match = _FORMAT.fullmatch(text)
    if match is None or checksum(text[:-8]) != match[3]:
        return None
    return AdminKey(match[1], hash_of(match[2]))
