"""What a settlement sends to the store, the keys and arguments of `settle_v8`, and what that replies. Pure.

SettlementCalls(policy).call(settlement, memory)   for a settlement, and a response to remember
read_posted(reply)                                 the team's balance after it, and how it was handled
upgrade_call(script, keys, args)                   the call for one that an older version spooled
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.billing.settlement import Settlement
from gateway.ledger.known_responses import ResponseMemory
from gateway.ledger.packed_entry import fingerprint
from gateway.ledger.policy import LedgerPolicy
from gateway.store.keyspace import TeamKeys
from gateway.store.script import Script

SETTLE: Final = Script.load("settle_v8")
_FOLLOWED: Final = "0"
_NO_MEMORY: Final = ("", "", "", "")


class Resolution(IntEnum):
    """How the ledger handled a settlement: the first number of `settle_v8`'s reply."""

    CONFLICT = -1  # the hold was resolved differently before, so nothing was posted
    APPLIED = 1
    REPLAYED = 2  # the same settlement was posted before
    LATE = 3  # the hold had expired or never existed; a cost is posted, and a void does nothing
    UNKNOWN = 4  # admitted unchecked, and there is no such team or secret, so nothing was posted


class Posted(NamedTuple):
    """The store's answer to a settlement: the team's balance after it in nano-USD, and how it was handled."""

    balance: int
    resolution: Resolution


_RESOLUTIONS: Final[Mapping[int, Resolution]] = MappingProxyType({int(one): one for one in Resolution})


class SettlementCalls:
    """Makes calls with the lifetimes of a policy."""

    def __init__(self, policy: LedgerPolicy) -> None:
        self._lifetimes = tuple(
            str(seconds * 1000)
            for seconds in (
                policy.resolution_ttl_s,
                policy.usage_retention_s,
                policy.journal_retention_s,
                policy.idempotency_ttl_s,
            )
        )

    def call(self, settlement: Settlement, memory: ResponseMemory | None = None) -> tuple[list[str], list[str]]:
        """Returns the keys and arguments."""
        hold, usage = settlement.hold, settlement.usage
        names, admitted_ms = TeamKeys(hold.team_id), hold.admitted_ms
        indexed_ms = admitted_ms or time.time_ns() // 1_000_000  # it is 0 if the reply to the admission was lost
        keys = names.of_settlement(hold.key_id, hold.id, admitted_ms, indexed_ms, hold.day)
        if hold.tags:
            keys.append(names.attributed(indexed_ms, hold.day))
        if hold.end_user:
            keys.append(names.end_users)
        if hold.idempotency_key is not None:
            keys.append(names.idempotency_key(hold.key_id, hold.idempotency_key))
        shown_id = memory is not None and memory.shown_id
        if shown_id:
            keys.append(names.response(shown_id))
        return keys, [
            hold.id,
            settlement.kind,
            str(settlement.cost_nano_usd),
            hold.key_id,
            settlement.model,
            settlement.upstream,
            settlement.outcome,
            settlement.settled_by,
            str(usage.input_tokens),
            str(usage.cached_input_tokens),
            str(usage.output_tokens),
            str(usage.reasoning_tokens),
            str(admitted_ms),
            *self._lifetimes[:-1],
            _FOLLOWED if hold.is_followed else self._lifetimes[-1],
            hold.unchecked_secret,
            settlement.bill,
            "\n".join(settlement.attempts),
            settlement.response_id,
            _overrun(settlement),
            fingerprint(hold.id),
            *(_NO_MEMORY if memory is None else memory[:4]),
            hold.tags,
            hold.end_user,
            *(("", "0") if shown_id else ()),
        ]


def read_posted(reply: list[Any]) -> Posted:
    """Reads the script's reply. Raises ValueError, TypeError or LookupError for an invalid one."""
    resolution, _, balance, _ = reply
    return Posted(int(balance), _RESOLUTIONS[resolution])


def _overrun(settlement: Settlement) -> str:
    """Returns the script's argument about a cost above its hold, which may be the hold of another request."""
    if settlement.made_by and settlement.over_nano_usd:
        return f"over {settlement.over_nano_usd} {settlement.made_by if settlement.pauses else ''}"
    return "1" if settlement.pauses else ""


def upgrade_call(script: str, keys: list[str], args: list[str]) -> tuple[str, list[str], list[str]]:
    """Returns the script, keys and arguments with which this version makes a call that an older version spooled.

    settle_v1 rolled usage up by the hour only; settle_v2 knew neither bills nor attempts; settle_v3 did not
    keep the ids of responses; settle_v4 paused no team; settle_v5 kept ends of holds and responses under keys of their
    own; settle_v6 knew no tags, settle_v7 no end users.

    Raises LookupError or ValueError for a call that no version wrote.
    """
    if script == "settle_v1":
        names, admitted_ms = TeamKeys(keys[0].partition("{")[2].partition("}")[0]), int(args[12])
        keys = [*keys[:7], names.usage("hour", admitted_ms), names.usage("day", admitted_ms), *keys[8:]]
    if script in ("settle_v1", "settle_v2"):
        script, args = "settle_v3", [*args[:18], "", "", *args[18:]]
    if script == "settle_v3":
        script, args = "settle_v4", [*args[:20], "", *args[20:]]
    if script == "settle_v4":
        script, args = "settle_v5", [*args[:21], "", *args[21:]]
    if script == "settle_v5":
        names = TeamKeys(keys[0].partition("{")[2].partition("}")[0])
        keys = [*keys[:6], names.words, names.ended(int(args[12])), *keys[7:9], keys[6], *keys[9:]]
        script, args = "settle_v6", [*args[:22], fingerprint(args[0]), *_NO_MEMORY, *args[22:]]
    if script == "settle_v6":
        script, args = "settle_v7", [*args[:27], "", *args[27:]]
    if script == "settle_v7":
        script, args = "settle_v8", [*args[:28], "", *args[28:]]
    return script, keys, args
