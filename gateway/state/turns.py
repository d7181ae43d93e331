"""One turn on a route whose state the gateway keeps: what goes upstream, what the client is shown, what is stored.

    turn = await turns.begin(key, body, rule)       before admission: resolves earlier turns into the body
    turn.body                                       what goes upstream: the whole input, store false, no ids
    await turn.announce()                           before admission: one that runs in the background is queued
    await turn.whole(body)                          a JSON answer as the client is shown it; it is stored first
    await turn.stream(data)                         the same for a stream, in whole events; the last waits for the store
    await turn.finish(closing)                      the rest of a stream, and the gateway's own closing events
    await turn.close()                              at the end, however the turn ended

A response that cannot be stored is shown with `store: false`, so its client does not try to continue it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
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
from gateway.state.chain import check_calls, continued, last_compaction
from gateway.state.compact_turn import CompactTurn
from gateway.state.compaction import (
    compaction_item,
    kept_behind,
    opened,
    summary_request,
    threshold_tokens,
    without_trigger,
)
from gateway.state.conversations import Conversations, check_number
from gateway.state.housekeeping import Housekeeping
from gateway.state.items import Item, as_items, has_blob, is_reference, upstream_items, with_ids
from gateway.state.large_work import dump_whole, parse_object_whole
from gateway.state.past import CONVERSATION, PREVIOUS, Base, Past, Pasts, Recall
from gateway.state.references import References
from gateway.state.responses import ResponseStore
from gateway.state.sealing import CompactionKeys, SealingKeys, open_text, seal_text
from gateway.state.shapes import Summarised
from gateway.state.stored_calls import StoredCalls
from gateway.state.turn import Due, Turn
from gateway.types import Body


class TurnSource(Protocol):
    """Where a turn begins."""

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

        `recall` is where a previous response is looked for before the store is asked.
        """
        fields, new, compacts = await self._large_work.run(partial(_read, body), is_long=len(body) > LONG_BYTES)
        request = _Request(key, body, fields, rule, compacts, recall)
        past, items, sent, lock = await self._resolved(request, new)
        keep, own = fields.get("store") is not False and key.team_id not in self.off_for_teams, with_ids(sent.own)
        blobs = (lambda: sent.body_of(items, blobs=False)) if any(map(has_blob, items)) else None
        shape = Summarised(sent.seal) if compacts else None
        due = None if compacts else self._due(request, items, sent)
        if fields.get("background") is True:
            return BackgroundTurn(
                self,
                key,
                past,
                own,
                sent.body,
                keep,
                lock,
                window=items,
                shape=shape,
                due=due,
                without_blobs=blobs,
                background=self.background,
                snapshot=queued_turn_fields(fields),
            )
        return Turn(
            self,
            key,
            past,
            own,
            sent.body,
            keep,
            lock,
            window=items,
            shape=shape,
            due=due,
            without_blobs=blobs,
        )

    async def begin_compaction(self, key: ApiKey, body: Body, rule: RouteRule) -> Turn:
        """Begins a call of `POST /v1/responses/compact`. Raises GatewayError."""
        fields, new, _ = await self._large_work.run(partial(_read, body), is_long=len(body) > LONG_BYTES)
        past, items, sent, lock = await self._resolved(_Request(key, body, fields, rule, compacts=True), new)
        return CompactTurn(self, key, past, (), sent.body, keep=False, lock=lock, window=items, seal=sent.seal)

    async def model_of(self, key: ApiKey, response_id: str) -> str | None:
        """Returns the model of a response that is kept here, as its client was shown it; None if there is none."""
        record = await self.responses.get(key, response_id)
        model = None if record is None else record.response.get("model")
        return model if isinstance(model, str) and model else None

    async def _resolved(self, request: _Request, new: list[Item]) -> _Resolved:
        """Resolves the past, and the references in the new items. Locks a conversation."""
        key, lock = request.key, secrets.token_hex(8)
        past = await self.pasts.find(request, lock)
        try:
            if past.conversation is not None:
                check_number(new, "input")
            new = await self.references.resolved(key.team_id, new, past.links, past.conversation, passes=request.passes)
            items, sent = await self._sent(request, past, new)
        except BaseException:
            if past.conversation is not None:
                await self.conversations.unlock(key.team_id, past.conversation, lock)
            raise
        return _Resolved(past, items, sent, lock)

    async def _sent(self, request: _Request, past: Past, new: Sequence[Item]) -> tuple[list[Item], _Sent]:
        is_large = past.links or len(request.body) > LONG_BYTES
        run = partial(self._large_work.run, is_long=bool(is_large))
        earlier, own = await run(partial(_checked, past, new))
        items = [*earlier, *own]
        seals = request.compacts or threshold_tokens(request.fields, self.threshold_tokens) is not None
        ring = await self.compaction_keys.ring() if seals or last_compaction(items) is not None else None
        sent = _Sent(request, ring, own, past.base)
        if request.compacts and sent.is_in_its_conversation:  # it would be asked for the summary in there
            raise GatewayError("invalid_item", "The provider keeps this conversation.", param=CONVERSATION)
        unchanged = not past.links and isinstance(request.fields.get("input"), str)
        sent.body = self._bounded(await run(partial(sent.body_of, items, unchanged=unchanged)))
        return items, sent

    def _due(self, request: _Request, items: Sequence[Item], sent: _Sent) -> Due | None:
        """Returns the compaction that the request wants beyond its threshold."""
        threshold = threshold_tokens(request.fields, self.threshold_tokens)
        if threshold is None or sent.is_in_its_conversation:
            return None

        def compacted(text: str) -> tuple[bytes, Item]:
            item = sent.seal(text)
            return self._bounded(sent.body_of([item, *kept_behind(items)], base=False)), item

        return Due(threshold, self._bounded(sent.body_of(items, summarises=True)), compacted)

    def _bounded(self, body: bytes) -> bytes:
        most = self.responses.policy.max_resolved_bytes
        if len(body) > most:
            raise GatewayError(
                "invalid_item",
                f"The input and what it continues hold more than {most} bytes: compact it.",
                param="input",
            )
        return body


@dataclass(frozen=True, slots=True)
class _Request:
    """A request, as far as it is the same with every past. `compacts`: it asks for a summary and for nothing else."""

    key: ApiKey
    body: Body
    fields: dict[str, Any]
    rule: RouteRule
    compacts: bool
    recall: Recall | None = None

    @property
    def passes(self) -> bool:
        """Whether ids of what is stored at the provider may be sent on."""
        return self.rule.foreign_ids == "pass"


@dataclass(slots=True)
class _Sent:
    """What goes upstream for a request: `body`. `ring` seals and opens compaction items, where there are any.

    `own`: the items of the request that its past does not have already. `base`: what only the provider has of it.
    """

    request: _Request
    ring: SealingKeys | None
    own: Sequence[Item]
    base: Base | None
    body: bytes = b""

    def seal(self, text: str) -> Item:
        """Returns the item that stands for this summary."""
        return compaction_item(seal_text(self._keys, text, self.request.key.team_id))

    @property
    def is_in_its_conversation(self) -> bool:
        """Whether the provider keeps the turn too, in a conversation of its own."""
        return self.base is not None and self.base.member == CONVERSATION

    def body_of(
        self,
        items: Sequence[Item],
        *,
        unchanged: bool = False,
        summarises: bool = False,
        blobs: bool = True,
        base: bool = True,
    ) -> bytes:
        """Returns the body with these items as its input. `unchanged`: the input stays as it was sent.

        `base`: they follow what only the provider has.
        """
        request = self.request
        rule, team_id = request.rule, request.key.team_id
        seen = opened(items, lambda sealed: open_text(self._keys, sealed, team_id))
        sent = upstream_items(seen, reasoning_ids=rule.replay_ids == "reasoning", blobs=blobs)
        changes: dict[str, bytes | None] = {
            PREVIOUS: None,
            CONVERSATION: None,
            "background": None,
            "context_management": None,
            "store": b"false" if rule.upstream_store == "false" else None,
        }
        if self.is_in_its_conversation:  # its provider summarises it, and appends nothing that it may not store
            del changes["context_management"], changes["store"]
        if self.base is not None and base:
            changes[self.base.member] = dumps(self.base.id)
        if request.compacts or summarises:
            changes |= summary_request(request.fields, sent)
        elif not unchanged:
            changes["input"] = dump_whole(sent)
        if summarises:
            changes["stream"] = None
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
    """A turn's past, its whole input, what goes upstream, and the name of its lock on a conversation."""

    past: Past
    items: list[Item]
    sent: _Sent
    lock: str


def _read(body: Body) -> tuple[dict[str, Any], list[Item], bool]:
    """Returns the fields of a body, the items of its input, and whether it asks for a summary."""
    fields = parse_object_whole(bytes(body)) or {}
    return fields, *without_trigger(as_items(fields.get("input")))


def _checked(past: Past, new: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    earlier, own = continued(past.links, new)
    items = [*earlier, *own]
    check_calls(items, unseen=past.base is not None or any(map(is_reference, items)))
    return earlier, own
