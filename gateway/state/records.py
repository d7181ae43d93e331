"""A stored response as bytes: JSON, compressed, and encrypted if the operator has set a key. Pure.

    pack(record, team_id, sealer)      -> bytes: a version byte, then the zlib stream, encrypted or not
    unpack(bytes, team_id, sealer)     -> StoredResponse; ValueError if the bytes cannot be opened
    pack_bytes, unpack_bytes           the same for any bytes

A record contains the turn's own input and output, the response as it was shown, the team, the key's id and the model.
It never contains secrets or headers of either side.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from gateway.state.items import Item
from gateway.state.large_work import dump_whole, parse_whole

PLAIN: Final = b"\x01"
SEALED: Final = b"\x02"
_LEVEL: Final = 3
_MAX_BYTES: Final = 256 * 1024 * 1024  # a record that expands beyond this was not written by the gateway


class Sealer(Protocol):
    """Encrypts stored responses."""

    def seal(self, data: bytes, team_id: str) -> bytes:
        """Encrypts data. Only `open` with the same team id can decrypt it."""

    def open(self, data: bytes, team_id: str) -> bytes:
        """Decrypts data. Raises ValueError."""


class StoredResponse(NamedTuple):
    """One stored turn.

    `response` is the response as the client received it, with its output. `input` are the turn's own items. `parent` is
    the response that it continues. `stored_s`: Unix time in seconds. `maker`: the upstream and the fingerprint of the
    key that made it, as "UPSTREAM FINGERPRINT", or "". `place`: the position of the last item that its conversation had
    before it, or 0. `base`: what precedes it and only its provider has, see `past.ProviderBase`, or "". Records of
    older versions lack the fields with defaults.
    """

    response: dict[str, Any]
    input: Sequence[Item]
    parent: str | None
    key_id: str
    stored_s: int = 0
    maker: str = ""
    place: int = 0
    base: str = ""

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
        """One of completed, incomplete, failed, cancelled, queued and in_progress."""
        return str(self.response.get("status"))


def pack(record: StoredResponse, team_id: str, sealer: Sealer | None = None) -> bytes:
    """Returns the record as bytes for the store."""
    return pack_bytes(dump_whole(list(record)), team_id, sealer)


def unpack(data: bytes, team_id: str, sealer: Sealer | None = None) -> StoredResponse:
    """Returns the record.

    Raises ValueError if it is damaged or was encrypted with a key that is no longer configured.
    """
    fields = parse_whole(unpack_bytes(data, team_id, sealer))
    return StoredResponse(*fields[: len(StoredResponse._fields)])  # a newer version may write more fields


def pack_bytes(data: bytes, team_id: str, sealer: Sealer | None = None) -> bytes:
    """Returns the bytes for the store."""
    packed = zlib.compress(data, _LEVEL)
    return PLAIN + packed if sealer is None else SEALED + sealer.seal(packed, team_id)


def unpack_bytes(data: bytes, team_id: str, sealer: Sealer | None = None) -> bytes:
    """Returns the bytes as they were before they were packed. Raises ValueError as `unpack` does."""
    version, body = data[:1], data[1:]
    if version == SEALED:
        if sealer is None:
            raise ValueError("sealed, and there is no key")
        body = sealer.open(body, team_id)
    elif version != PLAIN:
        raise ValueError("not packed by the gateway")
    try:
        return zlib.decompressobj().decompress(body, _MAX_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
