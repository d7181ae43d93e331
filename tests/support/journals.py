"""Journals as they lie in the store, with every entry's fields under the names that the oldest entries have."""

from __future__ import annotations

from typing import Any

from gateway.ledger.packed_entry import plain_fields
from gateway.store.keyspace import TeamKeys
from tests.support.servers import Server


def journal_entries(server: Server, team_id: str) -> list[dict[str, str]]:
    """A team's entries, oldest first."""
    names = TeamKeys(team_id)
    rows = server.run("XRANGE", names.journal, "-", "+")
    words = server.run("HGETALL", names.words)
    flat = [part for pair in words.items() for part in pair] if isinstance(words, dict) else words
    return [entry_fields([part for pair in fields.items() for part in pair], flat) for _, fields in rows]


def entry_fields(fields: list[bytes], words: list[Any]) -> dict[str, str]:
    """One entry's, with the fields and values of the team's `words`."""
    texts = {int(name[1:]): text for name, text in zip(words[::2], words[1::2], strict=True) if name[:1] == b"="}
    plain = [word.decode() for word in plain_fields(fields, texts)]
    return dict(zip(plain[::2], plain[1::2], strict=True))
