"""What is sealed opens with its key, for its team, unchanged, and in no other way."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.state.sealing import COMPACTION, STATE, CompactionKeys, SealingKeys, open_text, seal_text
from gateway.store.keyspace import SEALING_KEY
from tests.support.ledgers import LedgerParts

OLD, NEW = b"old-key-of-the-operator-0123456789", b"new-key-of-the-operator-0123456789"


@given(st.binary(max_size=200), st.text(min_size=1))
def test_what_is_sealed_opens_for_its_team_alone(data: bytes, team: str) -> None:
    ring = SealingKeys([OLD], STATE)
    sealed = ring.seal(data, team.encode("utf-8", "replace").decode())
    assert ring.open(sealed, team.encode("utf-8", "replace").decode()) == data
    with pytest.raises(ValueError, match="team"):
        ring.open(sealed, team.encode("utf-8", "replace").decode() + "x")


@given(st.text(max_size=100), st.integers(0), st.sampled_from("Aa0_é="))
def test_a_sealed_text_that_was_changed_anywhere_does_not_open(text: str, place: int, letter: str) -> None:
    ring = SealingKeys([OLD], COMPACTION)
    sealed = seal_text(ring, text, "team")  # different every time, so that nothing drawn may depend on it
    at = place % len(sealed)
    assume(letter != sealed[at])
    changed = sealed[:at] + letter + sealed[at + 1 :]
    try:
        assert open_text(ring, changed, "team") == text  # the last character may have bits that mean nothing
        assert at >= len(sealed.rstrip("=")) - 1
    except ValueError:
        pass


@given(st.text())
def test_what_was_never_sealed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="seal"):
        open_text(SealingKeys([OLD], COMPACTION), text, "team")


def test_half_an_emoji_survives() -> None:
    ring = SealingKeys([OLD], COMPACTION)
    assert open_text(ring, seal_text(ring, "\ud83d", "team"), "team") == "\ud83d"


def test_a_key_is_replaced_with_an_overlap() -> None:
    before, during, after = SealingKeys([OLD], STATE), SealingKeys([NEW, OLD], STATE), SealingKeys([NEW], STATE)
    old = before.seal(b"x", "team")
    new = during.seal(b"y", "team")
    assert (during.open(old, "team"), after.open(new, "team")) == (b"x", b"y")
    with pytest.raises(ValueError, match="key"):
        after.open(old, "team")
    with pytest.raises(ValueError, match="key"):
        before.open(new, "team")


def test_a_purpose_has_keys_of_its_own() -> None:
    sealed = SealingKeys([OLD], STATE).seal(b"x", "team")
    with pytest.raises(ValueError, match="key"):
        SealingKeys([OLD], COMPACTION).open(sealed, "team")


def test_no_two_seals_are_alike() -> None:
    ring = SealingKeys([OLD], STATE)
    assert len({ring.seal(b"x", "team") for _ in range(100)}) == 100


async def test_without_a_key_of_the_operators_one_is_made_once_for_all_workers(ledgers: LedgerParts) -> None:
    await ledgers.store.run("DEL", SEALING_KEY)
    one, two = CompactionKeys(ledgers.store, []), CompactionKeys(ledgers.store, [])
    sealed = seal_text(await one.ring(), "text", "team")
    assert open_text(await two.ring(), sealed, "team") == "text"
    with_own = CompactionKeys(ledgers.store, [NEW])
    assert open_text(await with_own.ring(), sealed, "team") == "text"
    own = seal_text(await with_own.ring(), "text", "team")
    with pytest.raises(ValueError, match="key"):
        open_text(await CompactionKeys(ledgers.store, []).ring(), own, "team")


async def test_a_key_of_the_operators_leaves_none_in_the_store(ledgers: LedgerParts) -> None:
    await ledgers.store.run("DEL", SEALING_KEY)
    await CompactionKeys(ledgers.store, [NEW]).ring()
    assert await ledgers.store.run("EXISTS", SEALING_KEY) == 0
