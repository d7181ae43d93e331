"""Who made a response, per team, for a bounded time: so that what follows goes to the same upstream and key.

    remember_running(...)       before its client is shown its id: what follows may come while its request still runs
    memory(response_id, ...)    what the settlement writes down, in the same call to the store: `Ledger.settle`
    find(key, response_id)      one call, only where a request names a response
    check(key)                  the same call without a response: is this key alive, and may it use an operation?

A response is charged once: by its own request, while that runs (`Standing.RUNNING`). One whose usage was not known when
that ended (it runs in the background, its client left) was charged by an estimate; the first usage that is seen later,
or that it ended without one, corrects that, by the difference: `correction`.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from enum import IntEnum
from typing import Final, NamedTuple

import orjson

from gateway.billing.bill import with_less
from gateway.billing.settlement import Hold, SettledBy, Settlement, overrun_nano_usd
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey, invalid_api_key
from gateway.ledger.packed_entry import fingerprint, read_known
from gateway.ledger.refusals import operation_not_allowed
from gateway.protocol.operations import Operation
from gateway.protocol.quantities import Usage
from gateway.store.errors import StoreUnavailable
from gateway.store.keyspace import WEEK_MS, TeamKeys
from gateway.store.script import Script
from gateway.store.store import Store

_OF_THE_KEY: Final = -1
_BY_USAGE: Final = ("usage", "upstream_cost")
_STORED: Final = 12
"""Where those fields of a `KnownResponse` end that are kept as such; the entry of its settlement tells the others."""
_CLOCKS_MS: Final = 60_000
"""By how much the store's clock may be ahead of this one."""
LOOK: Final = Script.load("look_v3")


_LOOK_AGAIN_S: Final = (0.02, 0.08)
"""Pauses before a response counts as unknown: what another worker wrote as its client saw the id may be on its way."""


class Standing(IntEnum):
    """How a response was charged. Stored as a number, of which earlier versions knew the first two, as a boolean."""

    ESTIMATED = 0  # a usage that is seen later is charged, less what was
    SETTLED = 1  # by its usage, or as it ended without one
    RUNNING = 2  # its request has not been settled yet, and will be


class KnownResponse(NamedTuple):
    """A response: who made it, for whom, and what it was charged. `settled`: its `Standing`.

    `upstream_key` is the fingerprint of the gateway's own key there. `admitted_ms`: the store's time. While its request
    runs, cost and tokens are those of its hold: the most that they can come to. `request_id`: that request;
    `held_nano_usd`: what was held for it; `tags`: as its hold had them. "" and 0 where that is not known.
    """

    response_id: str
    upstream: str
    upstream_key: str
    model: str
    key_id: str
    admitted_ms: int
    settled: int
    cost_nano_usd: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    held_nano_usd: int = 0
    request_id: str = ""
    tags: str = ""


class Memory(NamedTuple):
    """A response that a settlement remembers: the fingerprints of its id and of the upstream's key, and its id.

    `text` is what to remember where the settlement itself does not tell it, or "". `shown_id` is under which it was
    remembered as running, which ends; or "".
    """

    fingerprint: str
    upstream_key: str
    text: str
    response_id: str
    shown_id: str = ""


class KnownResponses:
    """What the store remembers of responses; `ttl_s` bounds how long, 0 is not at all.

    `admits_unchecked`: without a store a key passes for alive (`store.on_failure = "open"`).
    """

    def __init__(self, store: Store, ttl_s: int, *, admits_unchecked: bool = False) -> None:
        self._store = store
        self._admits_unchecked = admits_unchecked
        self._ttl_s = ttl_s

    @property
    def remembers(self) -> bool:
        """Whether anything is remembered."""
        return self._ttl_s > 0

    def remember_running(self, hold: Hold, model: str, response_id: str, upstream: str, upstream_key: str) -> None:
        """Writes down a response whose request runs. Nobody waits for it: the settlement remembers what it becomes.

        It replaces nothing, since that may have been written before.
        """
        tokens = hold.input_tokens, 0, hold.output_tokens, 0
        cost = hold.amount_nano_usd
        running = (upstream, upstream_key, model, hold.key_id, hold.admitted_ms, Standing.RUNNING.value, cost, *tokens)
        key = TeamKeys(hold.team_id).response(response_id)
        self._store.post(key, "SET", key, orjson.dumps(running), "PX", str(self._ttl_s * 1000), "NX")

    def memory(
        self, response_id: str, upstream_key: str, corrected: KnownResponse | None = None, *, shown_id: str = ""
    ) -> Memory | None:
        """What the settlement of a response is to remember; None: nothing is remembered.

        `corrected` is what is known after a settlement that posts a difference. `shown_id`: see `Memory`.
        """
        if not self._ttl_s:
            return None
        text = "" if corrected is None else orjson.dumps(corrected[1:_STORED]).decode()
        return Memory(fingerprint(response_id), upstream_key, text, response_id, shown_id)

    async def find(self, key: ApiKey, response_id: str, param: str = "previous_response_id") -> KnownResponse:
        """Raises GatewayError: `invalid_api_key`, `response_not_found`, `store_unavailable`."""
        names, now_ms = TeamKeys(key.team_id), time.time_ns() // 1_000_000
        places = [
            names.response(response_id),
            names.journal,
            names.words,
            *names.ended_since(max(0, now_ms - self._ttl_s * 1000 - WEEK_MS), now_ms + _CLOCKS_MS),
        ]
        sought = [response_id, fingerprint(response_id), str(self._ttl_s * 1000)]
        text, *entry = await self._query(key, places, sought)
        for pause_s in () if text or entry or not self._ttl_s else _LOOK_AGAIN_S:
            await asyncio.sleep(pause_s)
            text, *entry = await self._query(key, places, sought)
            if text or entry:
                break
        if entry:
            return _known(response_id, *entry)
        if not text:
            raise GatewayError(
                "response_not_found",
                f"The response {response_id!r} is not known: it was not stored, belongs to another team, was not "
                "created through this gateway, or is too old.",
                param=param,
            )
        return KnownResponse(response_id, *orjson.loads(text))

    async def check(self, key: ApiKey, operation: Operation | None = None) -> None:
        """Raises GatewayError: `invalid_api_key`, `operation_not_allowed`, `store_unavailable`."""
        try:
            await self._query(key, [], [], operation)
        except GatewayError as error:
            if error.code != "store_unavailable" or not self._admits_unchecked:
                raise

    async def _query(
        self, key: ApiKey, response: list[str], args: list[str], operation: Operation | None = None
    ) -> list[bytes]:
        names = TeamKeys(key.team_id)
        try:
            alive, text, *more = await self._store.call(
                LOOK,
                [names.team, names.key(key.key_id), *response],
                [key.secret_hash, "" if operation is None else operation.grants, *args],
            )
        except StoreUnavailable as error:
            raise GatewayError(
                "store_unavailable", f"The gateway cannot reach its store at the moment ({error.reason}).", wait_ms=1000
            ) from None
        if alive < 0 and operation is not None:
            raise operation_not_allowed("key" if alive == _OF_THE_KEY else "team", operation.name)
        if alive != 1:
            raise invalid_api_key(text.decode(), *more)
        return [text, *more]


def _known(response_id: str, packed: bytes, row: bytes, ending: bytes) -> KnownResponse:
    """A response as the entry of its settlement tells it."""
    entry = read_known(packed, row, ending)
    if entry.remembered:
        return KnownResponse(response_id, *orjson.loads(entry.remembered))
    return KnownResponse(
        response_id,
        entry.upstream,
        entry.upstream_key,
        entry.model,
        entry.key_id,
        entry.admitted_ms,
        entry.settled_by in _BY_USAGE,
        entry.cost_nano_usd,
        *entry.tokens,
        entry.held_nano_usd,
        entry.request_id,
        entry.tags,
    )


def known_response_of(settlement: Settlement, response_id: str, upstream_key: str) -> KnownResponse:
    """What is remembered of a response, from how its request was settled."""
    hold, cost, usage = settlement.hold, settlement.cost_nano_usd, settlement.usage
    model, upstream = settlement.model, settlement.upstream
    standing = Standing.SETTLED if settlement.settled_by in _BY_USAGE else Standing.ESTIMATED
    at, held = hold.admitted_ms, hold.amount_nano_usd
    return KnownResponse(
        response_id, upstream, upstream_key, model, hold.key_id, at, standing, cost, *usage[:4], held, hold.id
    )


def correction(known_response: KnownResponse, settlement: Settlement) -> tuple[Settlement, KnownResponse]:
    """A later settlement -> what is left to post, under an id that the response gives, and what to remember.

    It is by the response's usage, or by how it ended where it has none (a void: for nothing); either way it is the
    last. The id makes it idempotent: however many requests see the usage at once, the ledger posts it once. It belongs
    to the key, and to the budget periods, of the request that made the response; and it is over that request's hold by
    as much as what had been charged before was not.
    """
    usage = settlement.usage
    digest = hashlib.sha256(known_response.response_id.encode()).hexdigest()[:32]
    admitted_ms, tags = known_response.admitted_ms, known_response.tags
    hold = Hold(f"usage_{digest}", settlement.hold.team_id, known_response.key_id, 0, 0, 0, admitted_ms, tags=tags)
    left = Usage(
        input_tokens=usage.input_tokens - known_response.input_tokens,
        cached_input_tokens=usage.cached_input_tokens - known_response.cached_input_tokens,
        output_tokens=usage.output_tokens - known_response.output_tokens,
        reasoning_tokens=usage.reasoning_tokens - known_response.reasoning_tokens,
        total_tokens=usage.total_tokens - known_response.input_tokens - known_response.output_tokens,
        cost_usd=None,
    )
    cost = settlement.cost_nano_usd - known_response.cost_nano_usd
    bill = with_less(settlement.bill, usage, settlement.cost_nano_usd, known_response.cost_nano_usd)
    by: SettledBy = "estimate" if settlement.kind == "void" else settlement.settled_by
    held = known_response.held_nano_usd
    over = settlement.over_nano_usd - overrun_nano_usd(known_response.cost_nano_usd, held) if held else 0
    posted = settlement._replace(
        hold=hold,
        kind="settle",
        cost_nano_usd=cost,
        usage=left,
        settled_by=by,
        bill=bill,
        over_nano_usd=max(0, over),
        pauses=settlement.pauses and over > 0,
        made_by=known_response.request_id,
    )
    now = known_response_of(settlement._replace(hold=hold), known_response.response_id, known_response.upstream_key)
    return posted, now._replace(settled=Standing.SETTLED)
