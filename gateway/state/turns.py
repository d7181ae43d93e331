"""Begins turns on routes whose state the gateway keeps.

turn = await turns.begin(key, body, rule)       before admission: resolves earlier turns into the body
turn.body                                       what is sent upstream: the whole input, `store: false`, no ids
await turn.announce()                           before admission: queues a background response
await turn.whole(body)                          stores a JSON answer, and returns it as the client receives it
await turn.stream(data)                         the same for a stream, in whole events; the last one waits until the
                                                response is stored
await turn.finish(closing)                      the rest of a stream, and the gateway's own closing events
await turn.close()                              at the end, in any case
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

from gateway.concurrency.off_loop import LONG_BYTES
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.protocol.json_splice import replace
from gateway.protocol.lenient_json import dumps
from gateway.routing.router import RouteRule
from gateway.state.background import Background
from gateway.state.background_turn import BackgroundTurn, queued_turn_fields
from gateway.state.chain import check_calls, last_compaction, resolve_parts
from gateway.state.compact_turn import CompactTurn
from gateway.state.compaction import (
    compaction_item,
    open_items,
    summary_request,
    threshold_tokens,
    verbatim_tail,
    without_trigger,
)
from gateway.state.conversations import Conversations, check_number
from gateway.state.housekeeping import Housekeeping
from gateway.state.items import Item, as_items, has_encrypted_reasoning, is_reference, upstream_items, with_ids
from gateway.state.large_work import dump_whole, parse_object_whole
from gateway.state.output_changes import SummaryOutput
from gateway.state.past import CONVERSATION, PREVIOUS, Past, Pasts, ProviderBase, Recall
from gateway.state.references import References
from gateway.state.responses import ResponseStore
from gateway.state.sealing import CompactionKeys, SealingKeys, open_text, seal_text
from gateway.state.stored_calls import StoredCalls
from gateway.state.turn import DueCompaction, Turn
from gateway.types import Body


class TurnSource(Protocol):
    """Begins turns."""

    async def begin(self, key: ApiKey, body: Body, rule: RouteRule) -> Turn:
        """See `Turns.begin`."""

    async def begin_compaction(self, key: ApiKey, body: Body, rule: RouteRule) -> Turn:
        """See `Turns.begin_compaction`."""

    async def model_of(self, key: ApiKey, response_id: str) -> str | None:
        """See `Turns.model_of`."""


class Turns:
    """Begins turns. Mutable: `unstored` counts the responses that could not be stored."""

    def __init__(
        self,
        responses: ResponseStore,
        conversations: Conversations,
        background: Background,
        compaction_keys: CompactionKeys,
        threshold_tokens: int,
        off_for_teams: Sequence[str] = (),
    ) -> None:
        self.responses = responses
        self._large_work = responses.large_work
        self.conversations = conversations
        self.background = background
        self.compaction_keys = compaction_keys
        self.threshold_tokens = threshold_tokens
        self.off_for_teams = frozenset(off_for_teams)
        self.housekeeping = Housekeeping(responses.store, conversations, background)
        self.unstored = 0
        self.pasts = Pasts(responses, conversations)
        self.references = References(responses, conversations)
        self.stored = StoredCalls(responses, background, self.pasts)

    async def begin(self, key: ApiKey, body: Body, rule: RouteRule, recall: Recall | None = None) -> Turn:
        """Resolves the turn's past into the body. Raises GatewayError. Locks a conversation until `close`.

        `recall` looks up a previous response before the store is read.
        """
        fields, new, is_compaction = await self._large_work.run(partial(_parse, body), is_long=len(body) > LONG_BYTES)
        _check_switches(fields)
        request = _Request(key, body, fields, rule, is_compaction, recall)
        past, items, upstream_input, lock = await self._resolve(request, new)
        keep = fields.get("store") is not False and key.team_id not in self.off_for_teams
        own, without_reasoning = with_ids(upstream_input.own), None
        if any(map(has_encrypted_reasoning, items)):
            without_reasoning = partial(upstream_input.body_of, items, encrypted_reasoning=False)
        output_change = SummaryOutput(upstream_input.seal) if is_compaction else None
        due = None if is_compaction else self._due_compaction(request, items, upstream_input)
        begin: Callable[..., Turn] = partial(Turn, has_own_id=request.passes_foreign_ids)
        if fields.get("background") is True:
            begin = partial(BackgroundTurn, background=self.background, snapshot=queued_turn_fields(fields))
        return begin(
            self,
            key,
            past,
            own,
            upstream_input.body,
            keep,
            lock,
            window=items,
            output_change=output_change,
            due=due,
            without_encrypted_reasoning=without_reasoning,
        )

    async def begin_compaction(self, key: ApiKey, body: Body, rule: RouteRule) -> Turn:
        """Begins a call of `POST /v1/responses/compact`, which has no streams. Raises GatewayError."""
        fields, new, _ = await self._large_work.run(partial(_parse, body), is_long=len(body) > LONG_BYTES)
        past, items, upstream_input, lock = await self._resolve(
            _Request(key, body, fields, rule, is_compaction=True, streams=False), new
        )
        return CompactTurn(
            self, key, past, (), upstream_input.body, keep=False, lock=lock, window=items, seal=upstream_input.seal
        )

    async def model_of(self, key: ApiKey, response_id: str) -> str | None:
        """Returns the model that a stored response names, or None if there is no such response."""
        record = await self.responses.get(key, response_id)
        model = None if record is None else record.response.get("model")
        return model if isinstance(model, str) and model else None

    async def _resolve(self, request: _Request, new: list[Item]) -> _Resolved:
        """Resolves the past, and the references in the new items. Locks a conversation."""
        key, lock = request.key, secrets.token_hex(8)
        past = await self.pasts.find(request, lock)
        try:
            if past.conversation is not None:
                check_number(new, "input")
            new = await self.references.resolved(
                key.team_id, new, past.links, past.conversation, passes_foreign_ids=request.passes_foreign_items
            )
            items, upstream_input = await self._upstream_input(request, past, new)
        except BaseException:
            if past.conversation is not None:
                await self.conversations.unlock(key.team_id, past.conversation, lock)
            raise
        return _Resolved(past, items, upstream_input, lock)

    async def _upstream_input(
        self, request: _Request, past: Past, new: Sequence[Item]
    ) -> tuple[list[Item], _UpstreamInput]:
        is_large = past.links or len(request.body) > LONG_BYTES
        run = partial(self._large_work.run, is_long=bool(is_large))
        earlier, own = await run(partial(_merge_and_check, past, new))
        items = [*earlier, *own]
        seals = request.is_compaction or threshold_tokens(request.fields, self.threshold_tokens) is not None
        ring = await self.compaction_keys.ring() if seals or last_compaction(items) is not None else None
        upstream_input = _UpstreamInput(request, ring, own, past.base)
        if (
            request.is_compaction and upstream_input.in_provider_conversation
        ):  # the request for a summary would become a part of it
            raise GatewayError("invalid_item", "The provider keeps this conversation.", param=CONVERSATION)
        unchanged = not past.links and isinstance(request.fields.get("input"), str)
        upstream_input.body = self._bounded(await run(partial(upstream_input.body_of, items, unchanged=unchanged)))
        return items, upstream_input

    def _due_compaction(
        self, request: _Request, items: Sequence[Item], upstream_input: _UpstreamInput
    ) -> DueCompaction | None:
        """Returns the compaction that the request asks for beyond its threshold, or None."""
        threshold = threshold_tokens(request.fields, self.threshold_tokens)
        if threshold is None or upstream_input.in_provider_conversation:
            return None

        def apply(text: str) -> tuple[bytes, Item]:
            item = upstream_input.seal(text)
            return self._bounded(upstream_input.body_of([item, *verbatim_tail(items)], base=False)), item

        return DueCompaction(threshold, self._bounded(upstream_input.body_of(items, summarises=True)), apply)

    def _bounded(self, body: bytes) -> bytes:
        max_bytes = self.responses.policy.max_resolved_bytes
        if len(body) > max_bytes:
            raise GatewayError(
                "invalid_item",
                f"The input and what it continues hold more than {max_bytes} bytes: compact it.",
                param="input",
            )
        return body


@dataclass(frozen=True, slots=True)
class _Request:
    """The parts of a request that do not depend on its past. `is_compaction`: it asks only for a summary.

    `streams`: whether it may ask for a stream.
    """

    key: ApiKey
    body: Body
    fields: dict[str, Any]
    rule: RouteRule
    is_compaction: bool
    recall: Recall | None = None
    streams: bool = True

    @property
    def passes_foreign_ids(self) -> bool:
        """See `past.PastRequest`."""
        return self.rule.foreign_ids == "pass"

    @property
    def passes_foreign_items(self) -> bool:
        """Whether names of items may be sent on: not to a provider that stores what it answers here, under its ids."""
        return self.passes_foreign_ids and self.rule.upstream_store == "false"


@dataclass(slots=True)
class _UpstreamInput:
    """What is sent upstream for a request: `body`. `ring` seals and opens compaction items; None: there are none.

    `own`: the items of the request that its past does not contain. `base`: the beginning that only the provider has.
    """

    request: _Request
    ring: SealingKeys | None
    own: Sequence[Item]
    base: ProviderBase | None
    body: bytes = b""

    def seal(self, text: str) -> Item:
        """Returns the sealed item of a summary."""
        return compaction_item(seal_text(self._keys, text, self.request.key.team_id))

    @property
    def in_provider_conversation(self) -> bool:
        """Whether the provider also keeps the turn, in a conversation of its own."""
        return self.base is not None and self.base.member == CONVERSATION

    def body_of(
        self,
        items: Sequence[Item],
        *,
        unchanged: bool = False,
        summarises: bool = False,
        encrypted_reasoning: bool = True,
        base: bool = True,
    ) -> bytes:
        """Returns the body with these items as its input. `unchanged`: the client's input stays as it is.

        `summarises`: the body asks for a summary. `base`: the items follow what only the provider has.
        """
        request = self.request
        rule, team_id = request.rule, request.key.team_id
        seen = open_items(items, lambda sealed: open_text(self._keys, sealed, team_id))
        upstream_input = upstream_items(
            seen, reasoning_ids=rule.replay_ids == "reasoning", encrypted_reasoning=encrypted_reasoning
        )
        changes: dict[str, bytes | None] = {
            PREVIOUS: None,
            CONVERSATION: None,
            "background": None,
            "context_management": None,
            "store": b"false" if rule.upstream_store == "false" else None,
        }
        if self.in_provider_conversation:  # the provider compacts it itself, and must store the turn
            del changes["context_management"], changes["store"]
        if self.base is not None and base:
            changes[self.base.member] = dumps(self.base.id)
        if request.is_compaction or summarises:
            changes |= summary_request(request.fields, upstream_input)
        elif not unchanged:
            changes["input"] = dump_whole(upstream_input)
        if summarises or not request.streams:
            changes |= {"stream": None, "stream_options": None}
        try:
            return replace(bytes(request.body), 0, changes)
        except ValueError as error:
            raise GatewayError("invalid_json", f"The body is not valid JSON: {error}.") from None

    @property
    def _keys(self) -> SealingKeys:
        if self.ring is None:
            raise RuntimeError("keys are read before anything is sealed or opened")
        return self.ring


class _Resolved(NamedTuple):
    """A turn's past, its whole input, what is sent upstream, and the name of its lock on a conversation."""

    past: Past
    items: list[Item]
    upstream_input: _UpstreamInput
    lock: str


def _parse(body: Body) -> tuple[dict[str, Any], list[Item], bool]:
    """Returns the fields of a body, the items of its input, and whether it asks for a summary."""
    fields = parse_object_whole(bytes(body)) or {}
    return fields, *without_trigger(as_items(fields.get("input")))


def _check_switches(fields: Mapping[str, Any]) -> None:
    """Raises GatewayError `invalid_field` for a switch that is neither true nor false.

    The provider does not see these fields, and so cannot refuse them. What was meant not to be stored must not be.
    """
    for name in ("store", "background"):
        if not isinstance(fields.get(name), bool | None):
            raise GatewayError("invalid_field", f"{name!r} must be true or false.", param=name)


def _merge_and_check(past: Past, new: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    earlier, own = resolve_parts(past.links, new)
    items = [*earlier, *own]
    check_calls(items, unseen=past.base is not None or any(map(is_reference, items)))
    return earlier, own
