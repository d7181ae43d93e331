"""Request bodies that arrive compressed (RFC 9110, section 8.4.1), decoded within bounds. Pure.

decode(body, coding, most) -> bytes     or GatewayError: unsupported_media_type, invalid_field, body_too_large

What a body decodes to is bounded in size, and beyond a first MiB by its ratio too: a few kilobytes that become 32 MiB
are no request but an attack.
"""

from __future__ import annotations

import zlib
from typing import Final

from gateway.errors import GatewayError
from gateway.types import Body

CODINGS: Final = ("gzip", "deflate")
_WINDOW_BITS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}.get
_RAW_DEFLATE_BITS: Final = -15  # sent by those who read "deflate" as the bare format
_STEP_BYTES: Final = 256 * 1024
_FREE_BYTES: Final = 1024 * 1024
_MAX_RATIO: Final = 100
_NONE: Final = frozenset({"", "identity", "none", "utf-8"})


def is_coded(coding: str) -> bool:
    """Whether the header's value names a coding at all."""
    return coding.strip().lower() not in _NONE


def check_coding(coding: str) -> None:
    """Raises GatewayError `unsupported_media_type`, which names what is taken, for another coding."""
    if is_coded(coding) and _WINDOW_BITS(coding.strip().lower()) is None:
        raise GatewayError(
            "unsupported_media_type",
            f"Send the body as it is, or with one Content-Encoding of: {', '.join(CODINGS)}.",
            headers=((b"accept-encoding", ", ".join(CODINGS).encode()),),
        )


def decode(body: Body, coding: str, max_bytes: int) -> bytes:
    """The body as it was before it was compressed. Raises GatewayError."""
    check_coding(coding)
    bits = _WINDOW_BITS(coding.strip().lower()) or 0
    if bits > 0 and coding.strip().lower() == "deflate" and not _has_zlib_head(body):
        bits = _RAW_DEFLATE_BITS
    pieces: list[bytes] = []
    size, at, rest = 0, 0, b""
    while rest or at < len(body):  # gzip may have several members, one behind another
        decoder = zlib.decompressobj(bits)
        try:
            while not decoder.eof:
                if not rest:  # a piece at a time: what is left of the whole would be copied at each step
                    rest, at = bytes(body[at : at + _STEP_BYTES]), at + _STEP_BYTES
                piece = decoder.decompress(rest, _STEP_BYTES)
                if not (piece or rest or decoder.eof):
                    raise _invalid(coding)
                rest = decoder.unconsumed_tail
                pieces.append(piece)
                size += len(piece)
                if size > max_bytes or size > _FREE_BYTES + _MAX_RATIO * len(body):
                    raise _too_large(max_bytes)
        except zlib.error:
            raise _invalid(coding) from None
        rest = decoder.unused_data
        if (rest or at < len(body)) and bits != _WINDOW_BITS("gzip"):
            raise _invalid(coding)
    return b"".join(pieces)


def _has_zlib_head(body: Body) -> bool:
    """RFC 1950, section 2.2: the method, and a check of the first two bytes."""
    return len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0  # noqa: PLR2004 - the RFC's numbers


def _invalid(coding: str) -> GatewayError:
    return GatewayError("invalid_field", f"The body is not valid {coding.strip()}.", param="Content-Encoding")


def _too_large(max_bytes: int) -> GatewayError:
    return GatewayError(
        "body_too_large",
        f"Decoded, the body may hold {max_bytes} bytes at most, and {_MAX_RATIO} times what was sent.",
        explain={"limit": max_bytes},
    )
