"""A body on disk is the same as one in memory: read, searched, understood and sent; and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.concurrency.disk_body import NO_EDIT, DiskBody, Edit, SentBody
from gateway.concurrency.off_loop import OffLoop
from gateway.errors import GatewayError
from gateway.protocol.audio_length import seconds_of
from gateway.protocol.byte_search import InMemory, Window
from gateway.protocol.dialects.audio import TRANSCRIPTION
from gateway.protocol.dialects.images import IMAGES
from gateway.protocol.form_body import read_form_request
from gateway.protocol.multipart import text_edit
from gateway.proxy.form_spool import FormSpool
from tests.support.forms import BOUNDARY, CONTENT_TYPE, closed, file_part, text_part
from tests.support.waiting import wait_until
from tests.unit.test_multipart import GAMES

OFF_LOOP = OffLoop(1)
STARTS = st.sampled_from([b"", b"RIFF\0\0\0\0WAVEfmt ", b"fLaC", b"OggS", b"\0\0\0\0ftyp", b"ID3", b"\xff\xfb\x90\0"])


@contextlib.contextmanager
def on_disk(data: bytes | bytearray, directory: Path) -> Iterator[DiskBody]:
    body = DiskBody(directory)
    try:
        body.write(data)
        yield body
    finally:
        body.close()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bodies")


@given(pieces=st.lists(st.binary(max_size=50)), start=st.integers(0, 300), size=st.integers(0, 300))
def test_it_reads_what_was_written(directory: Path, pieces: list[bytes], start: int, size: int) -> None:
    whole = b"".join(pieces)
    with on_disk(b"", directory) as body:
        for piece in pieces:
            body.write(piece)
        assert (len(body), body.read(start, start + size)) == (len(whole), whole[start : start + size])
        assert list(directory.iterdir()) == []  # a process that is killed leaves none


@given(st.binary(min_size=1, max_size=4), st.integers(0, 200_000), st.integers(0, 200_000))
def test_it_finds_what_stands_at_any_place(directory: Path, needle: bytes, at: int, start: int) -> None:
    data = bytearray(200_010)
    data[at : at + len(needle)] = needle
    with on_disk(data, directory) as body:
        assert body.find(needle, start) == data.find(needle, start)
        assert body.find(needle, start, at + 1) == data.find(needle, start, at + 1)


@given(
    data=st.binary(min_size=1, max_size=200),
    places=st.tuples(st.integers(0, 200), st.integers(0, 200)),
    value=st.binary(max_size=40),
    most=st.integers(1, 60),
)
def test_what_is_sent_has_one_place_changed(
    directory: Path, data: bytes, places: tuple[int, int], value: bytes, most: int
) -> None:
    start, end = sorted(min(place, len(data)) for place in places)
    wanted = data[:start] + value + data[end:]
    with on_disk(data, directory) as body:
        sent, got = SentBody(body, OFF_LOOP, Edit(start, end, value)), b""
        while len(got) < len(sent):
            piece = sent.read(len(got), most)
            assert 0 < len(piece) <= most
            got += piece
        assert got == wanted


def test_a_read_behind_the_end_of_its_request_fails(directory: Path) -> None:
    with on_disk(b"abc", directory) as body:
        body.close()
        body.close()
        for use in (lambda: body.read(0, 3), lambda: body.write(b"d")):
            with pytest.raises(GatewayError, match="upload"):
                use()


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_a_closed_one_has_no_descriptor(directory: Path) -> None:
    before = descriptors()
    with on_disk(b"abc", directory):
        assert descriptors() == before + 1
    assert descriptors() == before


def test_a_directory_that_cannot_be_used_is_a_503_that_says_where_to_the_operator_alone(directory: Path) -> None:
    (directory / "file").write_bytes(b"")
    try:
        with pytest.raises(GatewayError) as caught, on_disk(b"abc", directory / "file" / "below"):
            pass
    finally:
        (directory / "file").unlink()
    assert (caught.value.status, caught.value.code) == (503, "disk_unavailable")
    assert str(directory) in caught.value.cause.detail
    assert str(directory) not in caught.value.message


def test_a_full_disk_is_a_503(directory: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(GatewayError) as caught, on_disk(bytes(100_001), directory):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code == "disk_unavailable"


async def test_a_disk_that_stands_still_is_waited_for_no_longer_than_allowed(directory: Path) -> None:
    spool, moves = FormSpool(directory, 1, 1, timeout_s=0.05), threading.Event()
    try:
        with pytest.raises(GatewayError) as caught:
            await spool.run(moves.wait)
        assert caught.value.code == "disk_unavailable"
    finally:
        moves.set()
        spool.close()


async def test_a_form_whose_worker_stops_is_closed_all_the_same(directory: Path) -> None:
    spool = FormSpool(directory, 0, 1000, timeout_s=5)
    form = spool.begin(3, is_longer=True, decoder=None)
    await form.take(b"abc")
    body = await form.end()
    assert isinstance(body, DiskBody)
    spool.close()
    form.close()
    with pytest.raises(GatewayError):
        body.read(0, 1)


# The same bytes mean the same


@given(STARTS, st.binary(max_size=2_000))
def test_sound_plays_as_long_on_disk(directory: Path, start: bytes, data: bytes) -> None:
    with on_disk(b"--" + start + data + b"--", directory) as body:
        assert seconds_of(Window(body, 2, len(body) - 2)) == seconds_of(InMemory(start + data))


@pytest.mark.parametrize("body", GAMES.values(), ids=GAMES.keys())
def test_what_can_be_read_in_two_ways_is_refused_on_disk(directory: Path, body: bytes) -> None:
    with on_disk(body, directory) as kept, pytest.raises(GatewayError) as caught:
        read_form_request(kept, CONTENT_TYPE.encode(), IMAGES.request)
    assert caught.value.code in ("invalid_field", "duplicate_field")


@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"\r\n--", f"\r\n--{BOUNDARY}".encode()]), max_size=4))
def test_a_form_is_read_the_same_and_sent_with_another_model(directory: Path, contents: list[bytes]) -> None:
    parts = [file_part("file", "a.wav", content) for content in contents]
    data = closed(*parts, text_part("model", b"old"))
    try:
        wanted = read_form_request(data, CONTENT_TYPE.encode(), TRANSCRIPTION.request)
    except GatewayError as error:
        with on_disk(data, directory) as body, pytest.raises(GatewayError, match=error.message):
            read_form_request(body, CONTENT_TYPE.encode(), TRANSCRIPTION.request)
        return
    with on_disk(data, directory) as body:
        found = read_form_request(body, CONTENT_TYPE.encode(), TRANSCRIPTION.request)
        assert found._replace(on_disk=None, held=wanted.held) == wanted
        assert (found.body, found.size_bytes) == (b"", len(data))
        assert found.form is not None
        edit = text_edit(found.form, "model", "new")
        assert whole(SentBody(body, OFF_LOOP, Edit(*edit))) == closed(*parts, text_part("model", b"new"))
        assert whole(SentBody(body, OFF_LOOP, NO_EDIT)) == data


def whole(sent: SentBody) -> bytes:
    got = b""
    while len(got) < len(sent):
        got += sent.read(len(got), 1_000)
    return got


async def test_a_piece_is_read_in_a_thread(directory: Path) -> None:
    with on_disk(b"abcdef", directory) as body:
        read = asyncio.get_running_loop().create_future()
        SentBody(body, OFF_LOOP).begin_read(2, 3, read.set_result)
        assert (await (await read)) == b"cde"


async def test_forms_that_wait_to_be_closed_are_closed_when_their_worker_stops(directory: Path) -> None:
    spool, goes_on, before = FormSpool(directory, 0, 1000, timeout_s=5), threading.Event(), descriptors()
    form = spool.begin(3, is_longer=True, decoder=None)
    await form.take(b"abc")
    await form.end()
    busy = [asyncio.create_task(spool.run(goes_on.wait)) for _ in range(8)]  # more than there are threads
    await asyncio.sleep(0)
    form.close()
    spool.close()
    goes_on.set()
    await asyncio.gather(*busy)
    await wait_until(lambda: descriptors() == before)
