"""Packs bodies in each coding that the gateway decodes."""

import gzip
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["PACKERS", "flushing", "zstd"]

_LONG_BYTES: Final = 100_000  # brotli's highest quality takes a second for a megabyte

PACKERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda data: bytes(brotli.compress(data, quality=11 if len(data) < _LONG_BYTES else 9)),
    "zstd": zstd.compress,
}


def flushing(coding: str) -> Callable[[bytes], bytes]:
    """Packs piece after piece, each so that it can be decoded at once."""
    if coding == "br":
        brotli_packer = brotli.Compressor()
        return lambda data: bytes(brotli_packer.process(data) + brotli_packer.flush())
    if coding == "zstd":
        zstd_packer = zstd.ZstdCompressor()
        return lambda data: zstd_packer.compress(data, zstd.ZstdCompressor.FLUSH_BLOCK)
    deflating = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    return lambda data: deflating.compress(data) + deflating.flush(zlib.Z_SYNC_FLUSH)
