"""Removes entries from the journal that are in a file, and keeps their sums in the store.

    archive(store, team_id, part, render)   removes the oldest entries, if a file has exactly these entries
    Archived.read(flat)                     the sums, with which `verification` begins

A file is compared with the journal by the SHA-256 of its lines. The script that trims the journal also updates the
sums, so that balances can be verified from the team's first entry on, however much was archived.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

from gateway.errors import GatewayError
from gateway.ledger.journal import MOVEMENTS, UNREADABLE, Entry, Journal
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather
from gateway.store.script import Script
from gateway.store.store import Store

ARCHIVE: Final = Script.load("archive_v1")
_BY_KEY: Final = ("spent:", "tokens:")


class Part(NamedTuple):
    """The oldest entries of a journal that a file has: the id of the last one, their number, and the file's digest."""

    through: str
    entries: int
    digest: str


@dataclass(slots=True)
class Archived:
    """The sums of archived entries. Money is in nano-USD. `spent` and `tokens` are by key. `through`: the last id."""

    entries: int = 0
    through: str = ""
    balance: int = 0
    granted: int = 0
    spent: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)

    @classmethod
    def read(cls, flat: Iterable[bytes]) -> Self:
        """Reads the stored sums. Raises ValueError for a value that the gateway has not written."""
        words = [word.decode() for word in flat]
        fields = dict(zip(words[::2], words[1::2], strict=True))
        entries, balance, granted = (int(fields.get(name, "0")) for name in ("entries", "balance", "granted"))
        spent, tokens = (
            Counter({name.removeprefix(prefix): int(n) for name, n in fields.items() if name.startswith(prefix)})
            for prefix in _BY_KEY
        )
        return cls(entries, fields.get("through", ""), balance, granted, spent, tokens)

    def add(self, entry: Entry) -> None:
        """Adds an entry."""
        self.entries += 1
        self.through = entry.id
        self.balance = entry.balance
        if entry.type in MOVEMENTS:
            self.granted += entry.amount
        else:
            self.spent[entry.key_id] -= entry.amount
            self.tokens[entry.key_id] += entry.usage.total_tokens if entry.usage is not None else 0

    def increments(self) -> list[str]:
        """Returns the fields of the sums, each followed by its increment."""
        plain = {"entries": self.entries, "granted": self.granted}
        plain |= {f"spent:{key}": amount for key, amount in self.spent.items()}
        plain |= {f"tokens:{key}": count for key, count in self.tokens.items()}
        return [word for name, amount in plain.items() for word in (name, str(amount))]


async def archive(store: Store, team_id: str, part: Part, render: Callable[[Entry], bytes]) -> int:
    """Removes entries from a journal, and returns how many. `render` writes an entry as a line of the file.

    Raises GatewayError `already_exists` if the file differs from the journal, and `store_unavailable`.
    """
    sums, oldest, digest = Archived(), "", hashlib.sha256()
    async for page in Journal(store).export(team_id, to_ms=int(part.through.partition("-")[0]) + 1):
        for entry in page:
            if sums.entries == part.entries:
                break
            if entry.type == UNREADABLE:
                raise _differs(f"the entry {entry.id} cannot be read; see `gateway ledger verify`")
            oldest = oldest or entry.id
            digest.update(render(entry))
            sums.add(entry)
        if sums.entries == part.entries:
            break
    if Part(sums.through, sums.entries, digest.hexdigest()) != part:
        raise _differs(f"the file and the journal differ before the entry {part.through}")
    names, (ms, _, number) = TeamKeys(team_id), part.through.partition("-")
    following = f"{ms}-{int(number) + 1}"
    args = [oldest, part.through, following, str(sums.balance), *sums.increments()]
    [trimmed] = await gather([store.call(ARCHIVE, [names.journal, names.archived], args)])
    if not trimmed:
        raise _differs("the journal was trimmed meanwhile")
    return int(trimmed)


def _differs(why: str) -> GatewayError:
    return GatewayError("already_exists", f"Nothing was taken out of the journal: {why}.", param="digest")
