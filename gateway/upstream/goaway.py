"""Removes GOAWAY frames (RFC 9113, 6.8) from the bytes of an HTTP/2 connection before h2 receives them.

A server that sends GOAWAY still finishes the streams that it has begun. nginx does so after `keepalive_requests`. But
h2 reads nothing after a GOAWAY, and would cut the answers on these streams.
"""

from dataclasses import dataclass
from typing import Final

_HEADER_BYTES: Final = 9
_GOAWAY: Final = 7
_BODY_BYTES: Final = 8
_MAX_GOAWAY_BYTES: Final = 16_384  # no frame may be longer than we have allowed, which is the protocol's default
_STREAM_BITS: Final = 0x7FFF_FFFF


@dataclass(frozen=True, slots=True)
class Goaway:
    """A GOAWAY frame. The upstream has not begun the streams beyond `last_stream_id`."""

    last_stream_id: int
    error_code: int


class GoawayFilter:
    """Splits the received bytes into frames. Mutable: the incomplete frame."""

    def __init__(self) -> None:
        self._start = b""  # the incomplete header of a frame, or an incomplete GOAWAY frame
        self._rest_bytes = 0  # the remaining bytes of another frame, which are passed on as they arrive

    def feed(self, data: bytes) -> tuple[bytes, list[Goaway]]:
        """Return the bytes without GOAWAY frames, and the GOAWAY frames.

        Raises:
            ValueError: an invalid GOAWAY frame.
        """
        passed: list[bytes] = []
        found: list[Goaway] = []
        at = 0
        if self._start:
            data, self._start = self._start + data, b""
        while at < len(data):
            if self._rest_bytes:
                piece = data[at : at + self._rest_bytes]
                self._rest_bytes -= len(piece)
                at += len(piece)
                passed.append(piece)
                continue
            header = data[at : at + _HEADER_BYTES]
            length = int.from_bytes(header[:3], "big")
            end = at + _HEADER_BYTES + length
            if len(header) < _HEADER_BYTES or (header[3] == _GOAWAY and end > len(data)):
                if length > _MAX_GOAWAY_BYTES and len(header) == _HEADER_BYTES:
                    raise ValueError("a GOAWAY frame that is too large")
                self._start = data[at:]
                break
            if header[3] != _GOAWAY:
                passed.append(header)
                self._rest_bytes = length
                at += _HEADER_BYTES
                continue
            if length < _BODY_BYTES or any(header[5:9]):
                raise ValueError("a GOAWAY frame that is malformed")
            body = data[at + _HEADER_BYTES : end]
            found.append(
                Goaway(int.from_bytes(body[:4], "big") & _STREAM_BITS, int.from_bytes(body[4:_BODY_BYTES], "big"))
            )
            at = end
        return b"".join(passed), found
