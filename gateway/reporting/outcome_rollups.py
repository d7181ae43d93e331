"""Outcomes, durations and refusals of requests, rolled up by hour and day. They accompany the roll-ups of usage.

    gw:{T}:seen:<hour>, gw:{T}:seen-day:<day>    hash: "<what>|<model>" -> count

    what                            counts
    end,<outcome>                   admitted requests by outcome
    total,<ms>                      settled requests by the bucket (latency_buckets.py) of their duration
    first,<ms>                      settled streams by the bucket of the time to the first byte of the body
    no,<code>,<limit>,<scope>       refusals

They are written in batches after the requests, so that they cost a request nothing. They inform operators, and no money
depends on them. Counts that certainly did not reach the store are kept for the next round. Counts that may have been
applied are not written again, and counts that the store refuses are dropped for that team only. Both are counted as
lost.
Amounts are in `used`, which settlement itself writes.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.keyspace import STEP_MS, TeamKeys
from gateway.store.script import Script
from gateway.store.store import Store

SEEN: Final = Script.load("seen_v1")
MAX_FIELDS: Final = 2_000
MAX_FIELDS_OF_REFUSALS: Final = 200
"""Lower, because a caller with a key can name any number of models in requests that are refused."""
_BATCH_SIZE: Final = 500  # calls per write to the store
_PAIRS: Final = 500  # fields per call


@dataclass(frozen=True, slots=True)
class Where:
    """The team and the server's time in ms. For refusals also the key and the SHA-256 of the presented secret.

    `day`: in the team's time zone, days after 1970-01-01; -1: as in UTC.
    """

    team_id: str
    at_ms: int
    key_id: str = ""
    secret_hash: str = ""
    day: int = -1


@dataclass(frozen=True, slots=True)
class Refusals:
    """One reason for refusals and how often it occurred. `limit` and `scope` are "" where they do not apply."""

    code: str
    limit: str
    scope: str
    requests: int


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """The counts of one model in one step of time, by `what`."""

    team_id: str
    model: str
    start_ms: int
    counts: Mapping[str, int]


CountsByPlace = Mapping[Where, Counter[str]]


@dataclass(frozen=True, slots=True)
class Unwritten:
    """What was not written. `kept`: for the next write; `lost`: the number of lost counts; `fault`: the last cause."""

    kept: CountsByPlace
    lost: int = 0
    fault: StoreUnavailable | StoreError | None = None


class OutcomeRollups:
    """The roll-ups of all teams in one store."""

    def __init__(self, store: Store, *, retention_s: int) -> None:
        self._store = store
        self._retention_ms = str(retention_s * 1000)

    async def write(self, seen: CountsByPlace) -> Unwritten:
        """Adds counts by "<what>|<model>". One team's failure costs no other team anything. Never raises."""
        calls = [(where, counts) for where, all_counts in seen.items() for counts in _parts(all_counts)]
        kept: defaultdict[Where, Counter[str]] = defaultdict(Counter)
        lost = 0
        fault: StoreUnavailable | StoreError | None = None
        for at in range(0, len(calls), _BATCH_SIZE):
            batch = calls[at : at + _BATCH_SIZE]
            sent = [self._store.call(SEEN, *self._call(where, counts)) for where, counts in batch]
            replies = await asyncio.gather(*sent, return_exceptions=True)
            for (where, counts), reply in zip(batch, replies, strict=True):
                if isinstance(reply, StoreUnavailable) and not reply.maybe_applied:
                    kept[where] += counts
                    fault = reply
                elif isinstance(reply, StoreUnavailable | StoreError):
                    lost += counts.total()
                    fault = reply
                elif isinstance(reply, BaseException):
                    raise reply
        return Unwritten(kept, lost, fault)

    def _call(self, where: Where, counts: Counter[str]) -> tuple[list[str], list[str]]:
        names = TeamKeys(where.team_id)
        day_ms = where.at_ms if where.day < 0 else where.day * STEP_MS["day"]
        keys = [names.outcomes("hour", where.at_ms), names.outcomes("day", day_ms)]
        keys += [names.key(where.key_id)] if where.secret_hash else []
        flat = [word for name, count in counts.items() for word in (name, str(count))]
        limit = MAX_FIELDS_OF_REFUSALS if where.secret_hash else MAX_FIELDS
        return keys, [self._retention_ms, str(limit), where.secret_hash, *flat]


def _parts(counts: Counter[str]) -> Iterator[Counter[str]]:
    """In calls of `_PAIRS` fields at most."""
    pairs = list(counts.items())
    for at in range(0, len(pairs), _PAIRS):
        yield Counter(dict(pairs[at : at + _PAIRS]))


def read_outcomes(team_id: str, start_ms: int, flat: list[bytes]) -> list[OutcomeCounts]:
    """Reads a roll-up and groups it by model."""
    models: dict[str, dict[str, int]] = {}
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        what, _bar, model = name.decode().partition("|")
        models.setdefault(model, {})[what] = int(value)
    return [OutcomeCounts(team_id, model, start_ms, counts) for model, counts in models.items()]


def outcomes_of(counts: Mapping[str, int]) -> dict[str, int]:
    """Returns the admitted requests by outcome."""
    return {name: counts[what] for what, name in _of("end", counts)}


def times(kind: str, counts: Mapping[str, int]) -> dict[int, int]:
    """Returns settled requests by the upper bound in ms of their bucket. `kind` is "total" or "first"."""
    return {int(bound): counts[what] for what, bound in _of(kind, counts)}


def refusals(counts: Mapping[str, int]) -> list[Refusals]:
    """Returns the refusals by reason, most frequent first."""
    found = []
    for what, reason in _of("no", counts):
        code, limit, scope = reason.split(",")
        found.append(Refusals(code, limit, scope, counts[what]))
    return sorted(found, key=lambda refused: (-refused.requests, refused.code, refused.limit, refused.scope))


def _of(kind: str, counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for what in counts:
        name, _comma, rest = what.partition(",")
        if name == kind:
            yield what, rest
