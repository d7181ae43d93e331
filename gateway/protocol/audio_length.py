"""The duration of an audio file, from its bytes. It is billed per second if an answer does not state it. Pure.

    seconds_of(data)    exact for WAV, FLAC, Ogg, MP4/M4A and WebM with a duration; MP3 by the bit rate of its frames;
                        for any other file an upper bound, by `SLOWEST_BYTES_PER_SECOND`

A length in the file's head is not trusted if the file cannot hold it: less than its bytes can play at the highest
common rate is not believed.
"""

from __future__ import annotations

import re
import struct
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from gateway.types import Body

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


def seconds_of(data: Body) -> Decimal:
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


def _wav(data: Body) -> float | None:
    """RIFF: the bytes of the data chunk divided by the bytes per second of the format chunk."""
    if bytes(data[:4]) != b"RIFF" or bytes(data[8:12]) != b"WAVE":
        return None
    at, rate = 12, 0
    while at + 8 <= len(data):
        name, length = bytes(data[at : at + 4]), struct.unpack_from("<I", data, at + 4)[0]
        if name == b"fmt ":
            rate = struct.unpack_from("<I", data, at + 16)[0]
        elif name == b"data":
            # Streamed files state 0 or the largest number. Then the rest of the file is the sound.
            left = len(data) - at - 8
            return float((length if 0 < length <= left else left) / rate)
        at += 8 + length + (length & 1)
    return None


def _flac(data: Body) -> float | None:
    """STREAMINFO: the samples divided by the samples per second."""
    if bytes(data[:4]) != b"fLaC":
        return None
    packed = int.from_bytes(bytes(data[18:26]), "big")
    samples = packed & (1 << 36) - 1
    return samples / (packed >> 44) if samples else None


def _ogg(data: Body) -> float | None:
    """The position of the last page, in samples."""
    if bytes(data[:4]) != b"OggS":
        return None
    last = data.rfind(b"OggS")
    position = struct.unpack_from("<q", data, last + 6)[0]
    head = bytes(data[:_HEAD_BYTES])
    if (opus := head.find(b"OpusHead")) >= 0:
        skip = struct.unpack_from("<H", head, opus + 10)[0]
        return float((position - skip) / 48_000)
    if (vorbis := head.find(b"\x01vorbis")) >= 0:
        return float(position / struct.unpack_from("<I", head, vorbis + 12)[0])
    return None


def _mp4(data: Body) -> float | None:
    """The movie header: its duration by its time scale (ISO/IEC 14496-12, 8.2.2)."""
    if bytes(data[4:8]) != b"ftyp":
        return None
    at = data.find(b"mvhd")
    if at < 0:
        return None
    if data[at + 4] == 1:
        scale, duration = struct.unpack_from(">IQ", data, at + 24)
    else:
        scale, duration = struct.unpack_from(">II", data, at + 16)
    return duration / scale if duration else None


def _webm(data: Body) -> float | None:
    """Matroska's Duration by its TimestampScale (RFC 9559, 5.1.2)."""
    if bytes(data[:4]) != b"\x1a\x45\xdf\xa3":
        return None
    head = bytes(data[:_HEAD_BYTES])
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


def _mp3(data: Body) -> float | None:
    """Divides the bytes by those of a second. Frames at several places tell, since the rate may vary."""
    at = 0
    if bytes(data[:3]) == b"ID3":
        at = 10 + (data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9])
    start = _MP3_SYNC.search(data, at, min(len(data), at + _HEAD_BYTES))
    if start is None:
        return None
    begin = start.start()
    size, seconds, frames = 0, 0.0, 0
    for place in range(_PLACES):
        sync = _MP3_SYNC.search(data, begin + (len(data) - begin) * place // _PLACES)
        at = len(data) if sync is None else sync.start()
        for _ in range(_FRAMES_AT_A_PLACE):
            frame = _mp3_frame(data, at) if at + 4 <= len(data) else None
            if frame is None:
                break
            at += frame[0]
            size += frame[0]
            seconds += frame[1]
            frames += 1
    # One sync word may be chance.
    return seconds * (len(data) - begin) / size if frames > 1 else None


def _mp3_frame(data: Body, at: int) -> tuple[int, float] | None:
    """Returns the length in bytes and seconds of a frame of layer III, or None if there is none."""
    if data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:  # noqa: PLR2004 - the sync word, and layer III
        return None
    version, third = data[at + 1] >> 3 & 3, data[at + 2]
    if version not in _MP3_SAMPLES or third >> 4 == 15 or third >> 2 & 3 == 3:  # noqa: PLR2004 - reserved values
        return None
    kbits, rate = _MP3_RATES[version == 3][third >> 4], _MP3_SAMPLES[version][third >> 2 & 3]  # noqa: PLR2004 - MPEG-1
    if not kbits:
        return None
    samples = 1152 if version == 3 else 576  # noqa: PLR2004 - the same
    length = samples // 8 * kbits * 1000 // rate + (third >> 1 & 1)
    return length, samples / rate
