"""Whatever bytes come, they are read or refused: from inputs that are saved, and from random changes of these.

`make fuzz` tries many more of these changes than fit here.
"""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import fuzz
from tests.support.any_bytes import READERS, parse_heads, saved

KINDS: Final = sorted(READERS)
SAVED: Final = [(kind, path) for kind in KINDS for path in saved(kind)]


@st.composite
def changed(draw: st.DrawFn, kind: str) -> bytes:
    """A saved input with a few of its parts taken out, doubled, or replaced by bytes or by parts of others."""
    inputs = [path.read_bytes() for path in saved(kind)]
    data = draw(st.sampled_from(inputs))[:2_000]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        other = draw(st.sampled_from(inputs))
        cut = draw(st.integers(0, len(other)))
        between = draw(st.sampled_from((b"", data[start:end] * 2, other[cut : cut + 40])) | st.binary(max_size=8))
        data = data[:start] + between + data[end:]
    return data


CUTS = st.lists(st.integers(0, 2_000), max_size=20).map(sorted)


@pytest.mark.parametrize(
    ("kind", "data"),
    [(kind, path.read_bytes()) for kind, path in SAVED],
    ids=[f"{kind}/{path.name}" for kind, path in SAVED],
)
def test_a_saved_input_is_read_or_refused_however_it_is_cut(kind: str, data: bytes) -> None:
    READERS[kind](data, ())
    READERS[kind](data, range(len(data)))


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_any_input_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    READERS[kind](data.draw(changed(kind)), data.draw(CUTS))


@pytest.mark.parametrize("kind", KINDS)
def test_random_changes_find_nothing(kind: str) -> None:
    assert fuzz.fuzz(kind, 200, "suite") == []


def test_a_promise_that_does_not_hold_is_found_and_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes, _cuts: object) -> None:
        parse_heads(data, ())
        raise ValueError("broken")

    monkeypatch.setattr(fuzz, "READERS", {"heads": broken})
    monkeypatch.setattr(fuzz, "inputs_of", lambda _kind: [b"GET / HTTP/1.1\r\n\r\n"])
    monkeypatch.setattr(fuzz, "save", lambda _kind, _data: "found-1")
    (line,) = fuzz.fuzz("heads", 5, "1")
    assert "ValueError" in line
    assert "found-1" in line
