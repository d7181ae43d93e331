"""Decodes compressed request bodies (RFC 9110, section 8.4.1) within bounds. Pure.

decode(body, coding, max_bytes) -> bytes     or GatewayError: unsupported_media_type, invalid_field, body_too_large
BodyDecoder(coding, max_bytes)               the same, piece by piece

The decoded size is bounded. Beyond the first MiB the ratio to the compressed size is bounded too, because a few
kilobytes that become 32 MiB are an attack.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.errors import GatewayError
from gateway.protocol.stream_decoder import CODINGS, STEP_BYTES, NotValid, StreamDecoder, coding_of
from gateway.types import Body

_FREE_BYTES: Final = 1024 * 1024
_MAX_RATIO: Final = 100
_MAX_MEMBERS: Final = 10_000  # each costs time, however little it holds
_NONE: Final = frozenset({"", "identity", "none", "utf-8", "utf8"})
"""Values of Content-Encoding that clients send with a body that is not compressed."""


def is_coded(coding: str) -> bool:
    """Whether the header's value names a coding."""
    return coding.strip().lower() not in _NONE


def check_coding(coding: str) -> None:
    """Raises GatewayError `unsupported_media_type` for an unknown coding. The error names the supported ones."""
    if is_coded(coding) and coding_of(coding) is None:
        raise GatewayError(
            "unsupported_media_type",
            f"Send the body as it is, or with one Content-Encoding of: {', '.join(CODINGS)}.",
            headers=((b"accept-encoding", ", ".join(CODINGS).encode()),),
        )


def decode(body: Body, coding: str, max_bytes: int) -> bytes:
    """Returns the decompressed body. Raises GatewayError."""
    decoder = BodyDecoder(coding, max_bytes, len(body))
    pieces: list[bytes] = []
    for at in range(0, len(body), STEP_BYTES):  # in pieces, because what is left is copied at each step
        pieces.extend(decoder.decoded(bytes(body[at : at + STEP_BYTES])))
    decoder.end()
    return b"".join(pieces)


class BodyDecoder:
    """Decodes a body that comes in pieces, within the same bounds. Raises GatewayError.

    `sent_bytes`: how long the coded body is; None while nobody knows: then its ratio is judged at its end.
    State that changes: how much has come, and how much of it was made.
    """

    def __init__(self, coding: str, max_bytes: int, sent_bytes: int | None = None) -> None:
        check_coding(coding)
        self._coding = coding
        self._max_bytes = max_bytes
        self._sent_bytes = sent_bytes
        self._decoder = StreamDecoder(coding_of(coding) or "")
        self._came_bytes = 0
        self._size = 0

    def decoded(self, piece: bytes) -> Iterator[bytes]:
        """What a piece gives. It must be read to the end before the next one."""
        self._came_bytes += len(piece)
        self._decoder.give(piece)
        try:
            while made := self._decoder.take():
                self._size += len(made)
                self._check(self._sent_bytes)
                yield made
        except NotValid:
            raise _invalid(self._coding) from None

    def end(self) -> None:
        """The body is whole."""
        self._check(self._came_bytes)
        if not self._decoder.is_complete:
            raise _invalid(self._coding)

    def _check(self, sent_bytes: int | None) -> None:
        grows = sent_bytes is not None and self._size > _FREE_BYTES + _MAX_RATIO * sent_bytes
        if self._size > self._max_bytes or grows or self._decoder.members > _MAX_MEMBERS:
            raise _too_large(self._max_bytes)


def _invalid(coding: str) -> GatewayError:
    return GatewayError("invalid_field", f"The body is not valid {coding.strip()}.", param="Content-Encoding")


def _too_large(max_bytes: int) -> GatewayError:
    return GatewayError(
        "body_too_large",
        f"Decoded, the body may hold {max_bytes} bytes at most, and {_MAX_RATIO} times what was sent.",
        explain={"limit": max_bytes},
    )
