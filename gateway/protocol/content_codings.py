"""Request bodies that arrive compressed (RFC 9110, section 8.4.1), decoded within bounds. Pure.

decode(body, coding, most) -> bytes     or GatewayError: unsupported_media_type, invalid_field, body_too_large
BodyDecoder(coding, most)               the same, piece by piece

What a body decodes to is bounded in size, and beyond a first MiB by its ratio too: a few kilobytes that become 32 MiB
are no request but an attack.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.errors import GatewayError
from gateway.protocol.stream_decoder import CODINGS, STEP_BYTES, NotValid, StreamDecoder, coding_of
from gateway.types import Body

_FREE_BYTES: Final = 1024 * 1024
_MAX_RATIO: Final = 100
_MOST_MEMBERS: Final = 10_000  # each costs time, however little it holds
_NONE: Final = frozenset({"", "identity", "none", "utf-8", "utf8"})
"""What is written into Content-Encoding for a body that is as it is."""


def is_coded(coding: str) -> bool:
    """Whether the header's value names a coding at all."""
    return coding.strip().lower() not in _NONE


def check_coding(coding: str) -> None:
    """Raises GatewayError `unsupported_media_type`, which names what is taken, for another coding."""
    if is_coded(coding) and coding_of(coding) is None:
        raise GatewayError(
            "unsupported_media_type",
            f"Send the body as it is, or with one Content-Encoding of: {', '.join(CODINGS)}.",
            headers=((b"accept-encoding", ", ".join(CODINGS).encode()),),
        )


def decode(body: Body, coding: str, max_bytes: int) -> bytes:
    """The body as it was before it was compressed. Raises GatewayError."""
    decoder = BodyDecoder(coding, max_bytes, len(body))
    pieces: list[bytes] = []
    for at in range(0, len(body), STEP_BYTES):  # a piece at a time: the whole would be copied at each step
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
        if self._size > self._max_bytes or grows or self._decoder.members > _MOST_MEMBERS:
            raise _too_large(self._max_bytes)


def _invalid(coding: str) -> GatewayError:
    return GatewayError("invalid_field", f"The body is not valid {coding.strip()}.", param="Content-Encoding")


def _too_large(max_bytes: int) -> GatewayError:
    return GatewayError(
        "body_too_large",
        f"Decoded, the body may hold {max_bytes} bytes at most, and {_MAX_RATIO} times what was sent.",
        explain={"limit": max_bytes},
    )
