"""Remembers which upstream and key made a response, so that requests that continue it go there.

    remember_running(...)       before the client receives the id, because other requests may refer to it at once
    memory(response_id, ...)    what the settlement remembers, in the same call to the store: `Ledger.settle`
    find(key, response_id)      one call, only for requests that name a response
    check(key)                  the same call without a response: checks the key, and whether it may use an operation

A response is charged once, by its own request. While that runs, its standing is `Standing.RUNNING`. If the usage was
unknown when the request ended, for example because its client left, the response was charged by an estimate. The first
usage that is seen later corrects the charge by the difference, and so does its end without a usage: `correction`.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from enum import IntEnum
from typing import Final, NamedTuple

import orjson

from gateway.billing.bill import with_charged_before
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

_REFUSED_BY_KEY: Final = -1
_BY_USAGE: Final = ("usage", "upstream_cost")
_STORED: Final = 12
"""How many fields of a `KnownResponse` are stored as JSON. The others come from the entry of its settlement."""
_MAX_CLOCK_SKEW_MS: Final = 60_000
"""By how much the store's clock may be ahead of this worker's."""
LOOK: Final = Script.load("look_v3")


_RETRY_PAUSES_S: Final = (0.02, 0.08)
"""Pauses before a response counts as unknown, because another worker may just be writing it."""


class Standing(IntEnum):
    """How a response was charged. Stored as a number, of which earlier versions knew the first two, as a boolean."""

    ESTIMATED = 0  # a usage that is seen later is charged, less the estimate
    SETTLED = 1  # by its usage, or because it ended without one
    RUNNING = 2  # its request will still be settled


class KnownResponse(NamedTuple):
    """A response: the upstream that made it, the key that requested it, and its charge. `settled`: its `Standing`.

    `upstream_key` is the fingerprint of the provider's key that was used. `admitted_ms`: the store's time. While its
    request runs, cost and tokens are those of its hold. `request_id`, `held_nano_usd`, `tags` and `end_user`: of that
    request and its hold; "" and 0 if they are unknown.
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
    end_user: str = ""


class ResponseMemory(NamedTuple):
    """What a settlement remembers of a response: the fingerprints of its id and of the upstream's key, and its id.

    `text` is remembered instead of the settlement's own values, unless it is "". `shown_id` is the id under which the
    response was remembered while it ran, or "". That entry is removed.
    """

    fingerprint: str
    upstream_key: str
    text: str
    response_id: str
    shown_id: str = ""


class KnownResponses:
    """The responses that the store remembers for `ttl_s`; 0: none.

    `admits_unchecked`: without the store every key counts as valid (`store.on_failure = "open"`).
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
        """Remembers a response whose request still runs. Nobody waits for this write.

        It does not replace an entry, because the settlement may have been faster.
        """
        tokens = hold.input_tokens, 0, hold.output_tokens, 0
        cost = hold.amount_nano_usd
        running = (upstream, upstream_key, model, hold.key_id, hold.admitted_ms, Standing.RUNNING.value, cost, *tokens)
        key = TeamKeys(hold.team_id).response(response_id)
        self._store.post(key, "SET", key, orjson.dumps(running), "PX", str(self._ttl_s * 1000), "NX")

    def memory(
        self, response_id: str, upstream_key: str, corrected: KnownResponse | None = None, *, shown_id: str = ""
    ) -> ResponseMemory | None:
        """Returns what the settlement of a response remembers. None: nothing is remembered.

        `corrected` is the response after a settlement that posts a difference. `shown_id`: see `ResponseMemory`.
        """
        if not self._ttl_s:
            return None
        text = "" if corrected is None else orjson.dumps(corrected[1:_STORED]).decode()
        return ResponseMemory(fingerprint(response_id), upstream_key, text, response_id, shown_id)

    async def find(self, key: ApiKey, response_id: str, param: str = "previous_response_id") -> KnownResponse:
        """Returns a response. Raises GatewayError `invalid_api_key`, `response_not_found`, `store_unavailable`."""
        names, now_ms = TeamKeys(key.team_id), time.time_ns() // 1_000_000
        places = [
            names.response(response_id),
            names.journal,
            names.words,
            *names.ended_since(max(0, now_ms - self._ttl_s * 1000 - WEEK_MS), now_ms + _MAX_CLOCK_SKEW_MS),
        ]
        args = [response_id, fingerprint(response_id), str(self._ttl_s * 1000)]
        text, *entry = await self._query(key, places, args)
        for pause_s in () if text or entry or not self._ttl_s else _RETRY_PAUSES_S:
            await asyncio.sleep(pause_s)
            text, *entry = await self._query(key, places, args)
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
        """Checks a key. Raises GatewayError `invalid_api_key`, `operation_not_allowed`, `store_unavailable`."""
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
            raise operation_not_allowed("key" if alive == _REFUSED_BY_KEY else "team", operation.name)
        if alive != 1:
            raise invalid_api_key(text.decode(), *more)
        return [text, *more]


def _known(response_id: str, packed: bytes, row: bytes, ending: bytes) -> KnownResponse:
    """Reads a response from the entry of its settlement."""
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
        entry.end_user,
    )


def known_response_of(settlement: Settlement, response_id: str, upstream_key: str) -> KnownResponse:
    """Returns what is remembered of a response after the settlement of its request."""
    hold, cost, usage = settlement.hold, settlement.cost_nano_usd, settlement.usage
    model, upstream = settlement.model, settlement.upstream
    standing = Standing.SETTLED if settlement.settled_by in _BY_USAGE else Standing.ESTIMATED
    at, held = hold.admitted_ms, hold.amount_nano_usd
    return KnownResponse(
        response_id, upstream, upstream_key, model, hold.key_id, at, standing, cost, *usage[:4], held, hold.id
    )


def correction(known_response: KnownResponse, settlement: Settlement) -> tuple[Settlement, KnownResponse]:
    """Returns the settlement that corrects an earlier one by the difference, and what is remembered after it.

    `settlement` is that of a later request which saw the usage, or the end of the response without a usage (a void).
    The correction is final. Its id is derived from the response's, so that it is posted once, however many requests see
    the usage. It counts for the key and the budget periods of the request that made the response. Its overrun is the
    part above that request's hold that was not charged before.
    """
    usage = settlement.usage
    digest = hashlib.sha256(known_response.response_id.encode()).hexdigest()[:32]
    team_id, key_id, admitted_ms = settlement.hold.team_id, known_response.key_id, known_response.admitted_ms
    tags, end_user = known_response.tags, known_response.end_user
    hold = Hold(f"usage_{digest}", team_id, key_id, 0, 0, 0, admitted_ms, tags=tags, end_user=end_user)
    left = Usage(
        input_tokens=usage.input_tokens - known_response.input_tokens,
        cached_input_tokens=usage.cached_input_tokens - known_response.cached_input_tokens,
        output_tokens=usage.output_tokens - known_response.output_tokens,
        reasoning_tokens=usage.reasoning_tokens - known_response.reasoning_tokens,
        total_tokens=usage.total_tokens - known_response.input_tokens - known_response.output_tokens,
        cost_usd=None,
    )
    cost = settlement.cost_nano_usd - known_response.cost_nano_usd
    bill = with_charged_before(settlement.bill, usage, settlement.cost_nano_usd, known_response.cost_nano_usd)
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
