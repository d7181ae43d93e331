"""The duration of a file that is nothing but frames: MP3, MP2 and AAC (ADTS), with or without an ID3 tag. Pure.

    duration(data) -> float | None      seconds; None if the bytes are no such frames

Each frame says its length and its rate. Frames at several places of the file are read, because the rate may vary. A
count of all frames (Xing's header) is taken instead, if it agrees with them. A sync word may be chance: only several
frames in a row count, and only if there are some at most of the places.
"""

from __future__ import annotations

import re
import struct
from types import MappingProxyType
from typing import Final, NamedTuple

from gateway.protocol.byte_search import Readable

_SYNC: Final = re.compile(rb"\xff[\xe2-\xff]")
_PLACES: Final = 16
_SLICE_BYTES: Final = 64 * 1024
_FRAMES_AT_A_PLACE: Final = 64
_FRAMES_IN_A_ROW: Final = 4
_MAX_TRIES: Final = 256
_XING_FRAMES: Final = 1
_AGREES: Final = 0.2  # how far a count of frames may be from what the frames tell

_ADTS: Final = 0
_LAYER_3: Final = 1
_LAYER_2: Final = 2
_MPEG_1: Final = 3
_KBITS: Final = MappingProxyType(
    {
        # (layer, version is MPEG-1): kbit/s by index (ISO/IEC 11172-3, 13818-3)
        (_LAYER_3, True): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
        (_LAYER_3, False): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
        (_LAYER_2, True): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
        (_LAYER_2, False): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    }
)
_RATES: Final = MappingProxyType({_MPEG_1: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)})
_AAC_RATES: Final = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_AAC_SAMPLES: Final = 1024


class Frame(NamedTuple):
    """One frame: its length in bytes, its duration, and what stays the same from frame to frame."""

    size: int
    seconds: float
    kind: tuple[int, int]


def duration(data: Readable) -> float | None:
    """Returns the seconds that the frames play, or None if there are none."""
    begin = _behind_tag(data)
    sound_bytes = len(data) - begin
    size, seconds, places = 0, 0.0, 0
    first = None
    for place in range(_PLACES):
        start = begin + sound_bytes * place // _PLACES
        at, frames = _row(data.read(start, start + _SLICE_BYTES), is_last=start + _SLICE_BYTES >= len(data))
        if frames:
            places += 1
            size += sum(frame.size for frame in frames)
            seconds += sum(frame.seconds for frame in frames)
            first = (start + at, frames[0]) if first is None else first
    if first is None or 2 * places < _PLACES:
        return None
    stated = seconds * sound_bytes / size
    counted = _counted_frames(data.read(first[0], first[0] + first[1].size)) * first[1].seconds
    return counted if abs(counted - stated) <= _AGREES * stated else stated


def _behind_tag(data: Readable) -> int:
    """Returns where an ID3 tag ends; 0 if there is none."""
    head = data.read(0, 10)
    if head[:3] != b"ID3" or len(head) < 10:  # noqa: PLR2004 - the length of its head
        return 0
    return min(len(data), 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]))


def _row(data: bytes, *, is_last: bool) -> tuple[int, list[Frame]]:
    """Returns the first frames in a row that are enough to be no chance, and where they are. `is_last`: data ends."""
    at = 0
    for _ in range(_MAX_TRIES):
        sync = _SYNC.search(data, at)
        if sync is None:
            break
        start = at = sync.start()
        frames: list[Frame] = []
        while len(frames) < _FRAMES_AT_A_PLACE and (frame := frame_of(data[at : at + 6])) is not None:
            if frames and frame.kind != frames[0].kind:
                break
            frames.append(frame)
            at += frame.size
        ends = is_last and at >= len(data) - 1 and bool(frames)
        if len(frames) >= _FRAMES_IN_A_ROW or ends:
            return start, frames
        at = start + 1
    return 0, []


def frame_of(head: bytes) -> Frame | None:
    """Returns the frame with these six first bytes, or None if they are none's."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:  # noqa: PLR2004 - bytes of a head, and the sync word
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer == _ADTS:
        return _adts(head)
    number, rate_number = head[2] >> 4, head[2] >> 2 & 3
    kbits = _KBITS.get((layer, version == _MPEG_1))
    if kbits is None or version not in _RATES or not 0 < number < len(kbits) or rate_number == 3:  # noqa: PLR2004 - reserved
        return None
    rate = _RATES[version][rate_number]
    samples = 1152 if version == _MPEG_1 or layer == _LAYER_2 else 576
    size = samples // 8 * kbits[number] * 1000 // rate + (head[2] >> 1 & 1)
    return Frame(size, samples / rate, (head[1] & 0xFE, rate))


def _adts(head: bytes) -> Frame | None:
    """A frame of AAC (ISO/IEC 13818-7, 6.2)."""
    rate_number = head[2] >> 2 & 15
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    if head[1] & 0xF0 != 0xF0 or rate_number >= len(_AAC_RATES) or size < 7:  # noqa: PLR2004 - the sync word, the head
        return None
    return Frame(size, _AAC_SAMPLES / _AAC_RATES[rate_number], (head[1] & 0xFE, rate_number))


def _counted_frames(frame: bytes) -> int:
    """Returns how many frames Xing's header in the first frame counts, this one not; 0 if there is none."""
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 12:
        return 0
    flags, count = struct.unpack_from(">II", frame, at + 4)
    return int(count) if flags & _XING_FRAMES else 0
