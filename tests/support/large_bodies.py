"""Small bodies that are read as large ones are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from gateway.protocol import attachments, decoded_body
from gateway.protocol.json_slices import parse_in_slices


@contextmanager
def large_bodies(slice_bytes: int = 1000) -> Iterator[None]:
    """Every body is read as a large one."""
    sliced = partial(parse_in_slices, slice_bytes=slice_bytes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoded_body, "LARGE_BYTES", 0)
        patch.setattr(decoded_body, "parse_in_slices", sliced)
        patch.setattr(attachments, "MIN_CUT_BYTES", 4)
        yield
