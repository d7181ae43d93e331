"""Compressed request bodies: decoded to what they were, within bounds."""

import gzip
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.protocol.content_codings import check_coding, decode
from gateway.protocol.stream_decoder import CODINGS, STEP_BYTES, NotValid, StreamDecoder
from tests.support.codings import PACKERS, flushing, zstd

MAX_BYTES = 10 * 1024 * 1024


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@given(st.binary(max_size=2000), st.integers(1, 50))
def test_a_body_decodes_to_what_it_was(data: bytes, times: int) -> None:
    data *= times
    assert decode(gzip.compress(data), "gzip", MAX_BYTES) == data
    assert decode(bytearray(gzip.compress(data)), " X-GZIP ", MAX_BYTES) == data
    assert decode(zlib.compress(data), "deflate", MAX_BYTES) == data
    assert decode(gzip.compress(data) + gzip.compress(b"more"), "gzip", MAX_BYTES) == data + b"more"
    assert decode(raw_deflate(data + b"{"), "deflate", MAX_BYTES) == data + b"{"
    assert decode(PACKERS["br"](data), "Br", MAX_BYTES) == data
    assert decode(PACKERS["zstd"](data), "zstd", MAX_BYTES) == data
    assert decode(PACKERS["zstd"](data) + zstd.compress(b"more"), "zstd", MAX_BYTES) == data + b"more"


@pytest.mark.parametrize("size", [262_143, 786_432, 786_433, 3_000_000])
@pytest.mark.parametrize("noise", [True, False])
def test_a_long_body_decodes_to_what_it_was(size: int, noise: bool) -> None:
    """In more pieces than one, of what came and of what it becomes."""
    data = random.Random(size).randbytes(size) if noise else bytes(min(size, 1_000_000))  # noqa: S311 - no secret
    for coding in CODINGS:
        coded = PACKERS[coding](data)
        assert decode(coded, coding, MAX_BYTES) == data
        for cut in (1, 8, size // 2) if noise else ():
            with pytest.raises(GatewayError):
                decode(coded[:-cut], coding, MAX_BYTES)
        if noise and coding == "gzip":
            assert decode(coded * 2, coding, MAX_BYTES) == data * 2


@given(st.binary(max_size=200), st.sampled_from(CODINGS))
def test_any_bytes_are_decoded_or_refused(data: bytes, coding: str) -> None:
    try:
        decode(data, coding, MAX_BYTES)
    except GatewayError as error:
        assert error.code in ("invalid_field", "body_too_large")  # noqa: PT017 - either; anything else is a crash


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("cut", [1, 5, 9, -1])
def test_half_a_body_is_refused(cut: int, coding: str) -> None:
    with pytest.raises(GatewayError) as refused:
        decode(PACKERS[coding](b"hello" * 100)[:cut], coding, MAX_BYTES)
    assert refused.value.code == "invalid_field"


@pytest.mark.parametrize(
    ("data", "max_bytes"), [(b"\0" * 5_000_000, MAX_BYTES), (bytes(range(256)) * 10, 2000)], ids=["ratio", "size"]
)
@pytest.mark.parametrize("coding", CODINGS)
def test_what_grows_too_much_is_refused(data: bytes, max_bytes: int, coding: str) -> None:
    with pytest.raises(GatewayError) as refused:
        decode(PACKERS[coding](data), coding, max_bytes)
    assert refused.value.code == "body_too_large"


@pytest.mark.parametrize("coding", ["deflate", "br"])
def test_bytes_behind_the_end_are_refused(coding: str) -> None:
    with pytest.raises(GatewayError):
        decode(PACKERS[coding](b"hello") + b"more", coding, MAX_BYTES)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize("member", [b"", b"a"], ids=["empty", "a byte each"])
def test_a_body_of_very_many_members_is_refused(coding: str, member: bytes) -> None:
    with pytest.raises(GatewayError):
        decode(PACKERS[coding](member) * 20_000, coding, MAX_BYTES)


def test_a_zstd_window_beyond_8_mib_is_refused() -> None:
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    coded = packer.compress(b"a" * 1000) + packer.compress(b"a" * 1000) + packer.flush()
    with pytest.raises(GatewayError) as refused:
        decode(coded, "zstd", MAX_BYTES)
    assert refused.value.code == "invalid_field"


def test_a_refused_coding_is_told_all_that_are_taken() -> None:
    with pytest.raises(GatewayError) as refused:
        check_coding("compress")
    assert (b"accept-encoding", b"gzip, deflate, br, zstd") in refused.value.render()[1]


@given(st.binary(max_size=3000), st.sampled_from(CODINGS), st.integers(1, 50), st.integers(0, 2**32))
def test_any_pieces_give_the_same(data: bytes, coding: str, times: int, seed: int) -> None:
    """One byte at a time or all at once, and never more than a step a piece."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    coded, decoder, found = PACKERS[coding](data * times), StreamDecoder(coding), bytearray()
    while coded:
        size = chance.choice((1, 2, 100, len(coded)))
        decoder.give(coded[:size])
        coded = coded[size:]
        while piece := decoder.take():
            assert len(piece) <= 4 * STEP_BYTES
            found += piece
    assert (bytes(found), decoder.is_complete) == (data * times, True)


@pytest.mark.parametrize("coding", CODINGS)
def test_what_was_flushed_is_decoded_at_once(coding: str) -> None:
    decoder, packer = StreamDecoder(coding), flushing(coding)
    for event in (b"data: 1\n\n", b"data: 2\n\n"):
        decoder.give(packer(event))
        assert decoder.take() == event


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_is_decoded_step_by_step(coding: str) -> None:
    decoder = StreamDecoder(coding)
    decoder.give(PACKERS[coding](bytes(20_000_000)))
    pieces = 0
    while piece := decoder.take():
        assert len(piece) <= 4 * STEP_BYTES
        pieces += 1
    assert pieces > 20


@given(st.lists(st.binary(max_size=50), max_size=5), st.sampled_from(CODINGS))
def test_any_bytes_end_or_are_not_valid(pieces: list[bytes], coding: str) -> None:
    decoder = StreamDecoder(coding)
    try:
        for piece in pieces:
            decoder.give(piece)
            while decoder.take():
                pass
    except NotValid:
        return
