"""The duration of an audio file, from its bytes. It is billed per second if an answer does not state it. Pure.

    seconds_of(data)    exact for WAV, FLAC, Ogg, MP4/M4A and WebM with a duration; MP3 by the bit rate of its frames;
                        for any other file an upper bound, by `SLOWEST_BYTES_PER_SECOND`

A length in the file's head is not trusted if the file cannot hold it: less than its bytes can play at the highest
common rate is not believed. A file on disk is read where it tells something, and searched in slices.
"""

from __future__ import annotations

import re
import struct
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from gateway.protocol.byte_search import Readable

SLOWEST_BYTES_PER_SECOND: Final = 750
"""6 kbit/s: the lowest rate at which common formats store speech (Opus, AMR, Speex)."""
FASTEST_BYTES_PER_SECOND: Final = 1_600_000
"""Eight channels of 24 bits at 64 kHz, which is more than any recording of speech has."""

_MP3_RATES: Final = MappingProxyType(
    {
        # (version is MPEG-1, layer III): kbit/s by index (ISO/IEC 11172-3, 13818-3)
        True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
        False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    }
)
_MP3_SAMPLES: Final = MappingProxyType({3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)})
_MP3_SYNC: Final = re.compile(rb"\xff[\xe2-\xff]")
_PLACES: Final = 16
_FRAMES_AT_A_PLACE: Final = 64
_WEBM_DURATION: Final = b"\x44\x89"
_WEBM_SCALE: Final = b"\x2a\xd7\xb1"
_HEAD_BYTES: Final = 64 * 1024
_SLICE_BYTES: Final = 64 * 1024
_MOST_CHUNKS: Final = 1000
"""Of a RIFF file: each costs time, and those in front of the sound are a handful."""


def seconds_of(data: Readable) -> Decimal:
    """Returns the duration in seconds, rounded up to the millisecond, and at least one millisecond."""
    size = len(data)
    longest = size / SLOWEST_BYTES_PER_SECOND
    found = None
    for reader in (_wav, _flac, _ogg, _mp4, _webm, _mp3):
        try:
            found = reader(data)
        except (struct.error, ValueError, ZeroDivisionError, IndexError, OverflowError):
            found = None
        if found is not None:
            break
    if found is None or not size / FASTEST_BYTES_PER_SECOND <= found <= 10 * longest + 1:
        found = longest
    return max(Decimal("0.001"), Decimal(int(found * 1000 + 0.999)) / 1000)


def _unpack(form: str, data: Readable, at: int) -> tuple[int, ...]:
    """Returns the numbers that stand there. Raises struct.error behind the end."""
    return struct.unpack(form, data.read(at, at + struct.calcsize(form)))


def _wav(data: Readable) -> float | None:
    """RIFF: the bytes of the data chunk divided by the bytes per second of the format chunk."""
    if data.read(0, 4) != b"RIFF" or data.read(8, 12) != b"WAVE":
        return None
    at, rate = 12, 0
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(data):
            break
        name, (length,) = data.read(at, at + 4), _unpack("<I", data, at + 4)
        if name == b"fmt ":
            (rate,) = _unpack("<I", data, at + 16)
        elif name == b"data":
            # Streamed files state 0 or the largest number. Then the rest of the file is the sound.
            left = len(data) - at - 8
            return float((length if 0 < length <= left else left) / rate)
        at += 8 + length + (length & 1)
    return None


def _flac(data: Readable) -> float | None:
    """STREAMINFO: the samples divided by the samples per second."""
    if data.read(0, 4) != b"fLaC":
        return None
    packed = int.from_bytes(data.read(18, 26), "big")
    samples = packed & (1 << 36) - 1
    return samples / (packed >> 44) if samples else None


def _ogg(data: Readable) -> float | None:
    """The position of the last page, in samples."""
    if data.read(0, 4) != b"OggS":
        return None
    (position,) = _unpack("<q", data, _last(data, b"OggS") + 6)
    head = data.read(0, _HEAD_BYTES)
    if (opus := head.find(b"OpusHead")) >= 0:
        skip = struct.unpack_from("<H", head, opus + 10)[0]
        return float((position - skip) / 48_000)
    if (vorbis := head.find(b"\x01vorbis")) >= 0:
        return float(position / struct.unpack_from("<I", head, vorbis + 12)[0])
    return None


def _last(data: Readable, needle: bytes) -> int:
    """Returns the last place where it stands, -1 if there is none."""
    end = len(data)
    while end > 0:
        start = max(0, end - _SLICE_BYTES)
        at = data.read(start, end + len(needle) - 1).rfind(needle)
        if at >= 0:
            return start + at
        end = start
    return -1


def _mp4(data: Readable) -> float | None:
    """The movie header: its duration by its time scale (ISO/IEC 14496-12, 8.2.2)."""
    if data.read(4, 8) != b"ftyp":
        return None
    at = data.find(b"mvhd")
    if at < 0:
        return None
    if data.read(at + 4, at + 5) == b"\x01":
        scale, duration = _unpack(">IQ", data, at + 24)
    else:
        scale, duration = _unpack(">II", data, at + 16)
    return duration / scale if duration else None


def _webm(data: Readable) -> float | None:
    """Matroska's Duration by its TimestampScale (RFC 9559, 5.1.2)."""
    if data.read(0, 4) != b"\x1a\x45\xdf\xa3":
        return None
    head = data.read(0, _HEAD_BYTES)
    at = head.find(_WEBM_DURATION)
    if at < 0:
        return None
    length = head[at + 2] & 0x7F
    ticks = struct.unpack_from(">d" if length == 8 else ">f", head, at + 3)[0]  # noqa: PLR2004 - a double has 8 bytes
    scale_at = head.find(_WEBM_SCALE)
    scale_ns = 1_000_000
    if scale_at >= 0:
        bytes_of_scale = head[scale_at + 3] & 0x7F
        scale_ns = int.from_bytes(head[scale_at + 4 : scale_at + 4 + bytes_of_scale], "big")
    return float(ticks * scale_ns / 1e9)


def _mp3(data: Readable) -> float | None:
    """Divides the bytes by those of a second. Frames at several places tell, since the rate may vary."""
    at = 0
    if data.read(0, 3) == b"ID3":
        length = data.read(6, 10)
        at = 10 + (length[0] << 21 | length[1] << 14 | length[2] << 7 | length[3])
    begin = _next_sync(data, at, at + _HEAD_BYTES)
    if begin < 0:
        return None
    size, seconds, frames = 0, 0.0, 0
    for place in range(_PLACES):
        at = _next_sync(data, begin + (len(data) - begin) * place // _PLACES, len(data))
        for _ in range(_FRAMES_AT_A_PLACE if at >= 0 else 0):
            frame = _mp3_frame(data.read(at, at + 4))
            if frame is None:
                break
            at += frame[0]
            size += frame[0]
            seconds += frame[1]
            frames += 1
    # One sync word may be chance.
    return seconds * (len(data) - begin) / size if frames > 1 else None


def _next_sync(data: Readable, start: int, end: int) -> int:
    """Returns the first place from `start` on, and before `end`, where a frame may begin; -1 if there is none."""
    end = min(end, len(data))
    while start < end:
        found = _MP3_SYNC.search(data.read(start, min(start + _SLICE_BYTES, end - 1) + 1))
        if found is not None:
            return start + found.start()
        start += _SLICE_BYTES
    return -1


def _mp3_frame(head: bytes) -> tuple[int, float] | None:
    """Returns the length in bytes and seconds of a frame of layer III, or None if there is none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:  # noqa: PLR2004 - the sync word, and layer III
        return None
    version, third = head[1] >> 3 & 3, head[2]
    if version not in _MP3_SAMPLES or third >> 4 == 15 or third >> 2 & 3 == 3:  # noqa: PLR2004 - reserved values
        return None
    kbits, rate = _MP3_RATES[version == 3][third >> 4], _MP3_SAMPLES[version][third >> 2 & 3]  # noqa: PLR2004 - MPEG-1
    if not kbits:
        return None
    samples = 1152 if version == 3 else 576  # noqa: PLR2004 - the same
    length = samples // 8 * kbits * 1000 // rate + (third >> 1 & 1)
    return length, samples / rate
