"""A stored response as bytes: JSON, compressed, sealed where the operator has set a key. Pure.

    pack(record, sealer)      -> bytes: a version byte, then zlib's stream, or the sealed one
    unpack(bytes, sealer)     -> StoredResponse; ValueError where they cannot be opened

What is kept: the turn's own input and output, the response as it was shown, team, key and model. Keys and headers of
either side are never kept.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from gateway.protocol.lenient_json import dumps, parse_json
from gateway.state.items import Item

PLAIN: Final = b"\x01"
SEALED: Final = b"\x02"
_LEVEL: Final = 3
_MOST_BYTES: Final = 256 * 1024 * 1024  # a compressed record that opens into more is none of ours


class Sealer(Protocol):
    """Encrypts what is kept at rest."""

    def seal(self, data: bytes, team_id: str) -> bytes:
        """Bytes that only `open` can read, for this team alone."""

    def open(self, data: bytes, team_id: str) -> bytes:
        """The bytes again. Raises ValueError."""


class StoredResponse(NamedTuple):
    """One turn. `response`: as it was shown, with its output; `input`: its own items; `parent`: what it continues."""

    response: dict[str, Any]
    input: Sequence[Item]
    parent: str | None
    key_id: str

    @property
    def response_id(self) -> str:
        """The response's id, as clients know it."""
        return str(self.response["id"])

    @property
    def output(self) -> list[Item]:
        """The turn's own output items."""
        output = self.response.get("output")
        return [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []

    @property
    def status(self) -> str:
        """completed, incomplete, failed, cancelled, queued or in_progress."""
        return str(self.response.get("status"))


def pack(record: StoredResponse, team_id: str, sealer: Sealer | None = None) -> bytes:
    """The record as it is stored."""
    data = zlib.compress(dumps(list(record)), _LEVEL)
    return PLAIN + data if sealer is None else SEALED + sealer.seal(data, team_id)


def unpack(data: bytes, team_id: str, sealer: Sealer | None = None) -> StoredResponse:
    """The record. Raises ValueError where it was sealed with a key that is not there any more, or is damaged."""
    version, body = data[:1], data[1:]
    if version == SEALED:
        if sealer is None:
            raise ValueError("sealed, and there is no key")
        body = sealer.open(body, team_id)
    elif version != PLAIN:
        raise ValueError("not a stored response")
    opener = zlib.decompressobj()
    try:
        text = opener.decompress(body, _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    return StoredResponse(*parse_json(text))
