"""How long a file of sound plays: true where head and bytes agree, never shorter where it is unknown."""

from __future__ import annotations

import random
import struct
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.audio_length import SLOWEST_BYTES_PER_SECOND
from gateway.protocol.audio_length import seconds_of as seconds_of_readable
from gateway.protocol.byte_search import InMemory
from tests.support.forms import wav


def seconds_of(data: bytes | bytearray) -> Decimal:
    return seconds_of_readable(InMemory(data))


def flac(seconds: int, rate: int = 16_000) -> bytes:
    info = b"\x10\x00\x10\x00" + bytes(6) + ((rate << 44 | 15 << 36) | seconds * rate).to_bytes(8, "big") + bytes(16)
    return b"fLaC\x80\x00\x00\x22" + info + bytes(seconds * 8_000)


def opus(seconds: int) -> bytes:
    head = b"OggS\x00\x02" + bytes(20) + b"\x01\x13" + b"OpusHead\x01\x01" + struct.pack("<HI", 312, 48_000) + bytes(3)
    last = b"OggS\x00\x04" + struct.pack("<q", seconds * 48_000 + 312) + bytes(12)
    return head + bytes(seconds * 4_000) + last


def mp4(seconds: int, version: int = 0) -> bytes:
    times = (
        struct.pack(">IIII", 0, 0, 1_000, seconds * 1_000)
        if not version
        else struct.pack(">QQIQ", 0, 0, 90_000, seconds * 90_000)
    )
    header = b"mvhd" + bytes([version, 0, 0, 0]) + times + bytes(80)
    return (
        b"\x00\x00\x00\x18ftypM4A \x00\x00\x00\x00M4A mp42" + bytes(seconds * 8_000) + b"\x00\x00\x00\x6cmoov" + header
    )


def webm(seconds: int) -> bytes:
    info = b"\x2a\xd7\xb1\x83\x0f\x42\x40" + b"\x44\x89\x88" + struct.pack(">d", seconds * 1_000.0)
    return b"\x1a\x45\xdf\xa3\x84webm" + info + bytes(seconds * 4_000)


def mp3(seconds: int, *, tag: bytes = b"") -> bytes:
    frame = b"\xff\xfb\x90\x00" + bytes(413)  # MPEG-1 layer III, 128 kbit/s, 44.1 kHz: 417 bytes, 1152 samples
    return tag + frame * (seconds * 44_100 // 1_152)


REAL = sorted((Path(__file__).parents[1] / "data" / "audio").iterdir())
"""A tone of 2.6 seconds, as ffmpeg writes it, also as it is recorded."""


ID3 = b"ID3\x04\x00\x00\x00\x00\x02\x01" + bytes(2 * 128 + 1)


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        (wav(27.5), 27.5),
        (wav(3).replace(b"data\x80\xbb\x00\x00", b"data\xff\xff\xff\xff"), 3),
        (flac(61), 61),
        (opus(33), 33),
        (mp4(45), 45),
        (mp4(45, version=1), 45),
        (webm(12), 12),
        (mp3(20), 20),
        (mp3(20, tag=ID3), 20),
    ],
    ids=["wav", "streamed wav", "flac", "opus", "mp4", "mp4 of 64 bits", "webm", "mp3", "tagged mp3"],
)
def test_the_length_is_read_from_the_file(data: bytes, seconds: float) -> None:
    assert float(seconds_of(data)) == pytest.approx(seconds, rel=0.005)


@pytest.mark.parametrize("file", REAL, ids=lambda file: file.name)
def test_real_files_play_as_long_as_they_do(file: Path) -> None:
    """Encoders fill their last frame, so that up to two tenths more are right."""
    assert 2.55 <= seconds_of(file.read_bytes()) <= 2.85


@given(st.sampled_from(REAL), st.data())
def test_a_real_file_that_is_cut_or_changed_has_a_length_within_bounds(file: Path, draw: st.DataObject) -> None:
    data = bytearray(file.read_bytes()[: draw.draw(st.integers(1, file.stat().st_size))])
    for at in draw.draw(st.lists(st.integers(0, len(data) - 1), max_size=5)):
        data[at] = draw.draw(st.integers(0, 255))
    assert Decimal("0.001") <= seconds_of(data) <= 10 * Decimal(len(data)) / SLOWEST_BYTES_PER_SECOND + 2


def test_noise_is_not_taken_for_frames() -> None:
    noise = random.Random(1).randbytes(750_000)  # noqa: S311 - no secret
    assert seconds_of(noise) == 1000


@pytest.mark.parametrize("name", ["duration of nothing", "rate of everything"])
def test_a_head_that_its_bytes_contradict_is_not_believed(name: str) -> None:
    lies = {
        "duration of nothing": mp4(600).replace(struct.pack(">I", 600_000), struct.pack(">I", 1)),
        "rate of everything": wav(600)[:28] + b"\xff\xff\xff\xff" + wav(600)[32:],
    }
    assert seconds_of(lies[name]) >= Decimal(600)


@given(
    st.binary(max_size=4_000),
    st.sampled_from([b"", b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS", b"\0\0\0\0ftyp", b"ID3", b"\xff\xfb"]),
)
def test_any_bytes_have_a_length_within_bounds(data: bytes, start: bytes) -> None:
    whole = start + data
    assert Decimal("0.001") <= seconds_of(whole) <= 10 * Decimal(len(whole)) / SLOWEST_BYTES_PER_SECOND + 2


class Counted(InMemory):
    """Bytes that count how often they are read."""

    reads = 0

    def read(self, start: int, end: int) -> bytes:
        self.reads += 1
        return super().read(start, end)


def test_a_file_of_very_many_chunks_takes_few_reads() -> None:
    data = Counted(b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * 50_000)
    assert seconds_of_readable(data) >= 100
    assert data.reads < 5_000


def test_what_is_no_known_format_is_as_long_as_its_bytes_can_be() -> None:
    assert seconds_of(b"?" * 75_000) == 100
