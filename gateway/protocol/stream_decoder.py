"""Decodes a compressed body (RFC 9110, section 8.4.1) piece by piece, as it arrives. Pure.

    decoder.give(data)        adds more of the compressed body
    decoder.take() -> bytes   the next decoded piece; b"" if more is needed, or nothing more can follow

A piece has about STEP_BYTES at most, so that no body fills the memory or blocks the event loop. A decoder holds only
its window and the input that it was given. Everything that the encoder has flushed is decoded at once, so that the
events of a stream are not delayed.

| coding         | library                                  | members   | window                              |
|----------------|------------------------------------------|-----------|-------------------------------------|
| gzip, x-gzip   | zlib                                     | several   | 32 KiB                              |
| deflate        | zlib; the bare format of RFC 1951, too   | one       | 32 KiB                              |
| br             | brotli                                   | one       | 16 MiB                              |
| zstd           | the standard library's, or its backport  | several   | 8 MiB, as RFC 9659 has it           |
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STEP_BYTES: Final = 256 * 1024
_GZIP_BITS, _ZLIB_BITS = 31, 15
_RAW_DEFLATE_BITS: Final = -15  # some senders understand "deflate" as the bare format
_ZSTD_WINDOW_LOG: Final = 23
_MAX_EMPTY_MEMBERS: Final = 100  # in a row, because each costs time and gives nothing


class NotValid(ValueError):
    """The body is not valid in its coding."""


class StreamDecoder:
    """Decodes one body. `members` is the number of compressed members that have begun. Mutable."""

    __slots__ = ("_coding", "_empty", "_has_more", "_member", "_rest", "members")

    def __init__(self, coding: str) -> None:
        self._coding = _CODINGS[coding]
        self._member: _Member | None = None
        self._rest = b""
        self._has_more = False  # the member can give more without more input
        self._empty = 0
        self.members = 0

    @property
    def is_complete(self) -> bool:
        """Whether the body may end here, because every member that has begun has ended."""
        return self._member is None and not self._rest

    def give(self, data: bytes) -> None:
        """Adds more of the compressed body."""
        self._rest = self._rest + data if self._rest else data

    def take(self) -> bytes:
        """Returns the next decoded piece, or b"" if more is needed. Raises NotValid."""
        while self._rest or self._has_more:
            member = self._member
            if member is None:
                if self.members and not self._coding.several:
                    raise NotValid("something follows the end")
                member = self._member = self._coding.begin(self._rest)
                self.members += 1
            data, self._rest = self._rest, b""
            try:
                piece = member.decompress(data, STEP_BYTES)
            except (zlib.error, brotli.error, zstd.ZstdError, EOFError) as error:
                raise NotValid(str(error)) from None
            self._has_more = not (member.eof or member.needs_input)
            if member.eof:
                self._member, self._rest = None, member.unused_data
            if piece:
                self._empty = 0
                return piece
            self._has_more = False
            self._empty += member.eof
            if self._empty > _MAX_EMPTY_MEMBERS:
                raise NotValid("too many empty members")
        return b""


class _Member(Protocol):
    """One stream of a library, as `zstd.ZstdDecompressor` defines it."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Deflated:
    def __init__(self, bits: int, _begin: bytes) -> None:
        self._inner = zlib.decompressobj(bits)
        self._is_full = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not (self._is_full or self._inner.unconsumed_tail)

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        tail = self._inner.unconsumed_tail
        piece = self._inner.decompress(tail + data if tail else data, max_length)
        self._is_full = len(piece) >= max_length
        return piece


class _Brotli:
    unused_data = b""  # what follows the end makes the library raise

    def __init__(self, _begin: bytes) -> None:
        self._inner = brotli.Decompressor()
        self._waiting: list[bytes] = []
        self._is_dry = True  # all its input has been decoded; `can_accept_more_data` alone does not say that

    @property
    def eof(self) -> bool:
        return bool(self._inner.is_finished())

    @property
    def needs_input(self) -> bool:
        return self._is_dry and not self._waiting

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        inner, waiting = self._inner, self._waiting
        if data:
            waiting.append(data)
        while True:
            given = waiting.pop(0) if waiting and self._is_dry else b""
            piece: bytes = inner.process(given, output_buffer_limit=max_length)
            self._is_dry = not piece and inner.can_accept_more_data()
            if piece or inner.is_finished() or not (given or waiting):
                break
        if waiting and inner.is_finished():
            raise brotli.error("something follows the end")
        return piece


def _begin_deflate(begin: bytes) -> _Deflated:
    # RFC 1950, section 2.2: the method, and a check of the first two bytes. The first read may have only one of them.
    head = begin[:2]
    is_zlib = head[0] & 15 == 8 and (len(head) == 1 or (head[0] << 8 | head[1]) % 31 == 0)  # noqa: PLR2004 - the RFC's numbers
    return _Deflated(_ZLIB_BITS if is_zlib else _RAW_DEFLATE_BITS, begin)


def _begin_zstd(_begin: bytes) -> _Member:
    return zstd.ZstdDecompressor(options={int(zstd.DecompressionParameter.window_log_max): _ZSTD_WINDOW_LOG})


class _Coding(NamedTuple):
    begin: Callable[[bytes], _Member]
    several: bool


_GZIP: Final = _Coding(partial(_Deflated, _GZIP_BITS), several=True)
_CODINGS: Final[Mapping[str, _Coding]] = MappingProxyType(
    {
        "gzip": _GZIP,
        "x-gzip": _GZIP,
        "deflate": _Coding(_begin_deflate, several=False),
        "br": _Coding(_Brotli, several=False),
        "zstd": _Coding(_begin_zstd, several=True),
    }
)
CODINGS: Final = ("gzip", "deflate", "br", "zstd")
"""The supported codings, by the names that clients are told."""


def coding_of(value: str) -> str | None:
    """Returns the coding that a header's value names, or None if it is unknown."""
    name = value.strip().lower()
    return name if name in _CODINGS else None
