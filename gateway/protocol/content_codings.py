"""Request bodies that arrive compressed (RFC 9110, section 8.4.1), decoded within bounds. Pure.

decode(body, coding, most) -> bytes     or GatewayError: unsupported_media_type, invalid_field, body_too_large

What a body decodes to is bounded in size, and beyond a first MiB by its ratio too: a few kilobytes that become 32 MiB
are no request but an attack.
"""

from __future__ import annotations

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
    check_coding(coding)
    decoder = StreamDecoder(coding_of(coding) or "")
    pieces: list[bytes] = []
    size, at = 0, 0
    try:
        while True:
            while piece := decoder.take():
                pieces.append(piece)
                size += len(piece)
                if size > max_bytes or size > _FREE_BYTES + _MAX_RATIO * len(body) or decoder.members > _MOST_MEMBERS:
                    raise _too_large(max_bytes)
            if at >= len(body):
                break
            decoder.give(bytes(body[at : at + STEP_BYTES]))  # a piece at a time: the whole would be copied at each step
            at += STEP_BYTES
    except NotValid:
        raise _invalid(coding) from None
    if not decoder.is_complete:
        raise _invalid(coding)
    return b"".join(pieces)


def _invalid(coding: str) -> GatewayError:
    return GatewayError("invalid_field", f"The body is not valid {coding.strip()}.", param="Content-Encoding")


def _too_large(max_bytes: int) -> GatewayError:
    return GatewayError(
        "body_too_large",
        f"Decoded, the body may hold {max_bytes} bytes at most, and {_MAX_RATIO} times what was sent.",
        explain={"limit": max_bytes},
    )
