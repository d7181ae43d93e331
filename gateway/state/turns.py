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
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.protocol.json_splice import replace
from gateway.protocol.lenient_json import dumps, parse_object
from gateway.routing.router import RouteRule
from gateway.state.background import Background
from gateway.state.background_turn import BackgroundTurn, queued_turn_fields
from gateway.state.chain import Link, check_calls, resolve
from gateway.state.conversations import LOCK_LIFE_S, Conversations
from gateway.state.items import Item, as_items, is_reference, upstream_items, with_ids
from gateway.state.responses import ResponseStore
from gateway.state.stored_calls import StoredCalls
from gateway.state.turn import Past, Turn
from gateway.types import Body

Recall = Callable[[str], Link | None]
"""Returns what a connection remembers of a response that is not stored, by the response's id."""


class TurnSource(Protocol):
    """Where a turn begins."""

    async def begin(self, key: ApiKey, body: Body, rule: RouteRule) -> Turn:
        """See `Turns.begin`."""


class Turns:
    """Begins turns. Mutable: `unstored` counts the responses that could not be stored."""

    def __init__(self, responses: ResponseStore, conversations: Conversations, background: Background) -> None:
        self.responses = responses
        self.conversations = conversations
        self.background = background
        self.unstored = 0
        self.stored = StoredCalls(responses, background)

    async def begin(self, key: ApiKey, body: Body, rule: RouteRule, recall: Recall | None = None) -> Turn:
        """Resolves the turn's past into the body. Raises GatewayError. Locks a conversation until `close`.

        `recall` is where a previous response is looked for before the store is asked.
        """
        fields = parse_object(bytes(body)) or {}
        past = await self._past(key, fields, recall)
        new = as_items(fields.get("input"))
        name = secrets.token_hex(8)
        try:
            new = [await self._dereferenced(key, past, item) if is_reference(item) else item for item in new]
            items = resolve(past.links, new)
            check_calls(items)
            upstream = self._upstream_body(body, fields, past, items, rule)
            if past.conversation is not None:
                await self.conversations.lock(key.team_id, past.conversation, name, LOCK_LIFE_S)
                # An item that another turn appended while this one waited is also part of the past.
                past = await self._past(key, fields, recall)
                items = resolve(past.links, new)
                check_calls(items)
                upstream = self._upstream_body(body, fields, past, items, rule)
        except BaseException:
            if past.conversation is not None:
                await self.conversations.unlock(key.team_id, past.conversation, name)
            raise
        keep, own = fields.get("store") is not False, with_ids(new)
        if fields.get("background") is True:
            snapshot = queued_turn_fields(fields)
            return BackgroundTurn(
                self, key, past, own, upstream, keep, name, background=self.background, snapshot=snapshot
            )
        return Turn(self, key, past, own, upstream, keep, name, window=items)

    async def _past(self, key: ApiKey, fields: dict[str, Any], recall: Recall | None) -> Past:
        previous, conversation = fields.get("previous_response_id"), _conversation_id(fields.get("conversation"))
        if previous is not None and conversation is not None:
            raise GatewayError(
                "invalid_item",
                "'conversation' and 'previous_response_id' exclude each other.",
                param="conversation",
            )
        if previous is not None:
            if not isinstance(previous, str):
                raise GatewayError(
                    "invalid_item", "'previous_response_id' must be a string.", param="previous_response_id"
                )
            recalled = None if recall is None else recall(previous)
            if recalled is not None:
                await self.responses.check(key)
                return Past([recalled], parent=previous, stored=False)
            records = await self.responses.chain(key, previous)
            links = [Link(record.response_id, record.input, record.output) for record in records]
            return Past(links, parent=previous)
        await self.responses.check(key)
        if conversation is None:
            return Past(())
        found = await self.conversations.read(key.team_id, conversation)
        return Past((Link(conversation, found.items, ()),), conversation=conversation)

    async def _dereferenced(self, key: ApiKey, past: Past, item: Item) -> Item:
        """Returns the item that a reference names: the latest one of the chain, or else the team's latest."""
        identifier = item.get("id")
        for link in reversed(past.links):
            for found in reversed([*link.input, *link.output]):
                if found.get("id") == identifier and not is_reference(found):
                    return dict(found)
        stored = await self.responses.item(key.team_id, str(identifier))
        if stored is None:
            raise GatewayError("item_not_found", f"The item {identifier!r} is not stored here.", param="input")
        return stored

    def _upstream_body(
        self, body: Body, fields: dict[str, Any], past: Past, items: Sequence[Item], rule: RouteRule
    ) -> bytes:
        sent = upstream_items(items, reasoning_ids=rule.replay_ids == "reasoning")
        unchanged = not past.links and isinstance(fields.get("input"), str)
        changes: dict[str, bytes | None] = {
            "previous_response_id": None,
            "conversation": None,
            "background": None,
            "store": b"false" if rule.upstream_store == "false" else None,
        }
        if not unchanged:
            changes["input"] = dumps(sent)
        try:
            changed = replace(bytes(body), 0, changes)
        except ValueError as error:
            raise GatewayError("invalid_json", f"The body is not valid JSON: {error}.") from None
        most = self.responses.policy.max_resolved_bytes
        if len(changed) > most:
            raise GatewayError(
                "invalid_item",
                f"The input and what it continues hold more than {most} bytes: compact it.",
                param="input",
            )
        return changed


def _conversation_id(given: object) -> str | None:
    if given is None:
        return None
    identifier = given.get("id") if isinstance(given, dict) else given
    if not isinstance(identifier, str):
        raise GatewayError("invalid_item", "'conversation' must be an id, or an object with one.", param="conversation")
    return identifier
