"""The duration of MP4 and WebM files, also of those that were written as they were recorded. Pure.

    mp4(data), webm(data) -> float | None     seconds; None if the file does not say it

What a browser records has no duration in its head: the time of its last fragment (MP4) or cluster (WebM) tells it.
Raises struct.error, IndexError or ZeroDivisionError for a file that is broken.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from gateway.protocol.byte_search import Readable

_HEAD_BYTES: Final = 64 * 1024
_SLICE_BYTES: Final = 64 * 1024
_MAX_BOXES: Final = 20_000
_MAX_ELEMENTS: Final = 20_000
_UNTOLD: Final = frozenset({0, 2**32 - 1, 2**64 - 1})
_HAS_DATA_OFFSET: Final = 0x1
_HAS_FIRST_FLAGS: Final = 0x4
_HAS_DURATIONS: Final = 0x100
_PER_SAMPLE: Final = (0x100, 0x200, 0x400, 0x800)

_DURATION: Final = b"\x44\x89"
_SCALE: Final = b"\x2a\xd7\xb1"
_CLUSTER: Final = b"\x1f\x43\xb6\x75"
_TIMESTAMP: Final = 0xE7
_SIMPLE_BLOCK: Final = 0xA3
_BLOCK_GROUP: Final = 0xA0
_BLOCK: Final = 0xA1


def unpack(form: str, data: Readable, at: int) -> tuple[int, ...]:
    """Returns the numbers that stand there. Raises struct.error behind the end."""
    return struct.unpack(form, data.read(at, at + struct.calcsize(form)))


def last(data: Readable, needle: bytes, end: int | None = None) -> int:
    """Returns the last place where it stands, before `end`; -1 if there is none."""
    end = len(data) if end is None else end
    while end > 0:
        start = max(0, end - _SLICE_BYTES)
        at = data.read(start, end + len(needle) - 1).rfind(needle)
        if at >= 0:
            return start + at
        end = start
    return -1


# MP4 (ISO/IEC 14496-12)


def mp4(data: Readable) -> float | None:
    """The movie header: its duration by its time scale (8.2.2). Of a file in fragments: the end of the last one."""
    head, fragment = b"", b""
    for kind, start, end in _boxes(data):
        if kind == b"moov":
            head = data.read(start, min(end, start + _HEAD_BYTES))
        elif kind == b"moof":
            fragment = data.read(start, min(end, start + _HEAD_BYTES))
    if not head:  # its boxes are broken
        at = data.find(b"mvhd")
        head = data.read(at, at + 64) if at >= 0 else b""
    if not head:
        return None
    scale, duration = _scale_and_duration(head, b"mvhd")
    if duration not in _UNTOLD:
        return duration / scale
    return _end_of(fragment, head) if fragment else None


def _boxes(data: Readable) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of the top level: type, start and end of the content."""
    at = 0
    for _ in range(_MAX_BOXES):
        if at + 8 > len(data):
            return
        head = 8
        (size,), kind = unpack(">I", data, at), data.read(at + 4, at + 8)
        if size == 1:
            (size,), head = unpack(">Q", data, at + 8), 16
        elif size == 0:
            size = len(data) - at
        if size < head:
            return
        yield kind, at + head, at + size
        at += size


def _scale_and_duration(head: bytes, kind: bytes) -> tuple[int, int]:
    """Of a movie's or a medium's header; zeros if there is none."""
    at = head.find(kind)
    if at < 0:
        return 0, 0
    scale, duration = struct.unpack_from(*((">IQ", head, at + 24) if head[at + 4] == 1 else (">II", head, at + 16)))
    return scale, duration


def _end_of(fragment: bytes, head: bytes) -> float | None:
    """When the sound of a fragment ends (8.8.12, 8.8.8)."""
    time_at, run_at = fragment.find(b"tfdt"), fragment.find(b"trun")
    scale, _ = _scale_and_duration(head, b"mdhd")
    if time_at < 0 or run_at < 0 or not scale:
        return None
    (time,) = struct.unpack_from(">Q" if fragment[time_at + 4] == 1 else ">I", fragment, time_at + 8)
    flags, count = struct.unpack_from(">II", fragment, run_at + 4)
    flags &= 0xFFFFFF
    if not flags & _HAS_DURATIONS:
        return float((time + count * _sample_duration(fragment, head)) / scale)
    step = 4 * sum(bool(flags & flag) for flag in _PER_SAMPLE)
    at = run_at + 12 + 4 * bool(flags & _HAS_DATA_OFFSET) + 4 * bool(flags & _HAS_FIRST_FLAGS)
    durations = sum(struct.unpack_from(">I", fragment, one)[0] for one in range(at, at + step * count, step))
    return float((time + durations) / scale)


def _sample_duration(fragment: bytes, head: bytes) -> int:
    """What a sample lasts where its run does not say it (8.8.7, 8.8.3)."""
    at = fragment.find(b"tfhd")
    flags = struct.unpack_from(">I", fragment, at + 4)[0] & 0xFFFFFF if at >= 0 else 0
    if flags & 0x8:
        return int(struct.unpack_from(">I", fragment, at + 12 + 8 * (flags & 1) + 4 * (flags >> 1 & 1))[0])
    at = head.find(b"trex")
    return int(struct.unpack_from(">I", head, at + 16)[0]) if at >= 0 else 0


# WebM (RFC 9559)


class _Element(NamedTuple):
    name: int
    start: int
    end: int


def webm(data: Readable) -> float | None:
    """The duration by the time scale (5.1.2); of a file without: the time of its last block."""
    head = data.read(0, _HEAD_BYTES)
    scale_at = head.find(_SCALE)
    scale_ns = 1_000_000
    if scale_at >= 0:
        bytes_of_scale = head[scale_at + 3] & 0x7F
        scale_ns = int.from_bytes(head[scale_at + 4 : scale_at + 4 + bytes_of_scale], "big")
    at = head.find(_DURATION, 0, head.find(_CLUSTER) if _CLUSTER in head else None)
    if at >= 0:
        length = head[at + 2] & 0x7F
        ticks = struct.unpack_from(">d" if length == 8 else ">f", head, at + 3)[0]  # noqa: PLR2004 - a double has 8 bytes
        if ticks > 0:
            return float(ticks * scale_ns / 1e9)
    at = last(data, _CLUSTER)
    for _ in range(8):  # its bytes may stand in a block by chance
        if at < 0:
            break
        if (ticks := _last_block(data, at + len(_CLUSTER))) is not None:
            return float(ticks * scale_ns / 1e9)
        at = last(data, _CLUSTER, at)
    return None


def _last_block(data: Readable, at: int) -> int | None:
    """Returns the time of a cluster's last block, and the step that led to it once more; None if it is no cluster."""
    at += _length(data, at)[0]
    base, before, newest = None, 0, 0
    for _ in range(_MAX_ELEMENTS):
        if at + 2 > len(data):
            break
        element = _element(data, at)
        if base is None and element.name != _TIMESTAMP:
            return None
        if element.name == _TIMESTAMP:
            base = int.from_bytes(data.read(element.start, min(element.end, element.start + 8)), "big")
        elif element.name in (_SIMPLE_BLOCK, _BLOCK_GROUP):
            block = _element(data, element.start) if element.name == _BLOCK_GROUP else element
            if block.name in (_SIMPLE_BLOCK, _BLOCK):
                (time,) = unpack(">h", data, block.start + _length(data, block.start)[0])
                before, newest = newest, max(newest, time)
        at = element.end
    return None if base is None else base + newest + max(0, newest - before)


def _element(data: Readable, at: int) -> _Element:
    """The element that begins there."""
    first = data.read(at, at + 1)[0]
    width = 9 - first.bit_length()
    name = int.from_bytes(data.read(at, at + width), "big")
    more, size = _length(data, at + width)
    start = at + width + more
    return _Element(name, start, len(data) if size is None else start + size)


def _length(data: Readable, at: int) -> tuple[int, int | None]:
    """A length: how many bytes it takes, and its value; None: up to the end."""
    first = data.read(at, at + 1)[0]
    width = 9 - first.bit_length()
    value = int.from_bytes(data.read(at, at + width), "big") & (1 << 7 * width) - 1
    return width, None if value == (1 << 7 * width) - 1 else value
