"""The duration of an audio file, from its bytes. It is billed per second if an answer does not state it. Pure.

    seconds_of(data)    exact for WAV, FLAC, Ogg, MP4/M4A and WebM; MP3, MP2 and AAC by their frames;
                        for any other file an upper bound, by `SLOWEST_BYTES_PER_SECOND`

A duration in the file's head is not trusted if it is shorter than the file's bytes would play at the highest common
rate, or far longer than they would at the lowest one. A file on disk is searched in slices, and only the needed parts
of it are read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Final

from gateway.protocol import audio_frames
from gateway.protocol.audio_containers import last, mp4, unpack, webm
from gateway.protocol.byte_search import Readable

SLOWEST_BYTES_PER_SECOND: Final = 750
"""6 kbit/s: the lowest rate at which common formats store speech (Opus, AMR, Speex)."""
FASTEST_BYTES_PER_SECOND: Final = 1_600_000
"""Eight channels of 24 bits at 64 kHz, which is more than any recording of speech has."""

_HEAD_BYTES: Final = 64 * 1024
_MAX_CHUNKS: Final = 1000
"""Of a RIFF file: each costs time, and those in front of the sound are a handful."""
_EVEN_FORMATS: Final = frozenset({1, 3, 6, 7, 0xFFFE})
"""WAV formats of which a second always has the same bytes: PCM, floats, A-law, mu-law."""


def seconds_of(data: Readable) -> Decimal:
    """Returns the duration in seconds, rounded up to the millisecond, and at least one millisecond."""
    size = len(data)
    longest_s = size / SLOWEST_BYTES_PER_SECOND
    read = next((one for at, magic, one in _READERS if data.read(at, at + 4) == magic), audio_frames.duration)
    try:
        found = read(data)
    except (struct.error, ValueError, ZeroDivisionError, IndexError, OverflowError):
        found = None
    if found is None or not size / FASTEST_BYTES_PER_SECOND <= found <= 10 * longest_s + 1:
        found = longest_s
    return max(Decimal("0.001"), Decimal(int(found * 1000 + 0.999)) / 1000)


def _wav(data: Readable) -> float | None:
    """RIFF: the bytes of the data chunk divided by the bytes per second of the format chunk.

    A compressed format counts its samples in a chunk of its own (`fact`).
    """
    if data.read(8, 12) != b"WAVE":
        return None
    at, bytes_per_second, samples, rate, is_even = 12, 0, 0, 0, True
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            break
        name, (length,) = data.read(at, at + 4), unpack("<I", data, at + 4)
        if name == b"fmt ":
            form, _, rate, bytes_per_second = unpack("<HHII", data, at + 8)
            is_even = form in _EVEN_FORMATS
        elif name == b"fact":
            (samples,) = unpack("<I", data, at + 8)
        elif name == b"data":
            if samples and rate and not is_even:
                return samples / rate
            # Streamed files state 0 or the largest number. Then the rest of the file is the sound.
            left = len(data) - at - 8
            return float((length if 0 < length <= left else left) / bytes_per_second)
        at += 8 + length + (length & 1)
    return None


def _flac(data: Readable) -> float | None:
    """STREAMINFO: the samples divided by the samples per second."""
    packed = int.from_bytes(data.read(18, 26), "big")
    samples = packed & (1 << 36) - 1
    return samples / (packed >> 44) if samples else None


def _ogg(data: Readable) -> float | None:
    """The position of the last page, in samples."""
    (position,) = unpack("<q", data, last(data, b"OggS") + 6)
    head = data.read(0, _HEAD_BYTES)
    if (opus := head.find(b"OpusHead")) >= 0:
        skip = struct.unpack_from("<H", head, opus + 10)[0]
        return float((position - skip) / 48_000)
    if (vorbis := head.find(b"\x01vorbis")) >= 0:
        return float(position / struct.unpack_from("<I", head, vorbis + 12)[0])
    if (flac := head.find(b"fLaC")) >= 0:
        return float(position / (int.from_bytes(head[flac + 18 : flac + 22], "big") >> 12))
    if (speex := head.find(b"Speex   ")) >= 0:
        return float(position / struct.unpack_from("<I", head, speex + 36)[0])
    return None


_READERS: Final[tuple[tuple[int, bytes, Callable[[Readable], float | None]], ...]] = (
    (0, b"RIFF", _wav),
    (0, b"RF64", _wav),
    (0, b"fLaC", _flac),
    (0, b"OggS", _ogg),
    (4, b"ftyp", mp4),
    (0, b"\x1a\x45\xdf\xa3", webm),
)
"""Where a file has which bytes, and who reads it. A file with none of them may be nothing but frames."""
