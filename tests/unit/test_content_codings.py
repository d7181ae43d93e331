"""Compressed request bodies: decoded to what they were, within bounds."""

import gzip
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.protocol.content_codings import decode

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


@pytest.mark.parametrize("size", [262_143, 786_432, 786_433, 3_000_000])
@pytest.mark.parametrize("noise", [True, False])
def test_a_long_body_decodes_to_what_it_was(size: int, noise: bool) -> None:
    """In more pieces than one, of what came and of what it becomes."""
    data = random.Random(size).randbytes(size) if noise else bytes(min(size, 1_000_000))  # noqa: S311 - no secret
    assert decode(gzip.compress(data), "gzip", MAX_BYTES) == data
    assert decode(zlib.compress(data), "deflate", MAX_BYTES) == data
    if noise:
        assert decode(gzip.compress(data) * 2, "gzip", MAX_BYTES) == data * 2
        for cut in (1, 8, size // 2):
            with pytest.raises(GatewayError):
                decode(gzip.compress(data)[:-cut], "gzip", MAX_BYTES)


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_decoded_or_refused(data: bytes, coding: str) -> None:
    try:
        decode(data, coding, MAX_BYTES)
    except GatewayError as error:
        assert error.code in ("invalid_field", "body_too_large")  # noqa: PT017 - either; anything else is a crash


@pytest.mark.parametrize("cut", [1, 5, 15, -1])
def test_half_a_body_is_refused(cut: int) -> None:
    with pytest.raises(GatewayError) as refused:
        decode(gzip.compress(b"hello" * 100)[:cut], "gzip", MAX_BYTES)
    assert refused.value.code == "invalid_field"


@pytest.mark.parametrize(
    ("data", "max_bytes"), [(b"\0" * 5_000_000, MAX_BYTES), (bytes(range(256)) * 10, 2000)], ids=["ratio", "size"]
)
def test_what_grows_too_much_is_refused(data: bytes, max_bytes: int) -> None:
    with pytest.raises(GatewayError) as refused:
        decode(gzip.compress(data), "gzip", max_bytes)
    assert refused.value.code == "body_too_large"
