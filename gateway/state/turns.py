"""One turn on a route whose state the gateway keeps: what goes upstream, what the client is shown, what is stored.

    turn = await turns.begin(key, body, rule)       before admission: resolves earlier turns into the body
    turn.body                                       what goes upstream: the whole input, store false, no ids
    await turn.whole(body)                          a JSON answer as the client is shown it; it is stored first
    await turn.stream(data)                         the same for a stream, in whole events; the last waits for the store
    await turn.finish(closing)                      the rest of a stream, and the gateway's own closing events
    await turn.close()                              at the end, however the turn ended

A response that cannot be stored is shown with `store: false`, so its client does not try to continue it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.protocol.json_splice import replace
from gateway.protocol.lenient_json import dumps, parse_object
from gateway.protocol.sse_framing import last_boundary, split_events
from gateway.routing.router import RouteRule
from gateway.state.chain import Link, check_calls, resolve
from gateway.state.conversations import Conversations
from gateway.state.items import Item, as_items, is_reference, shown, upstream_items, with_ids
from gateway.state.records import StoredResponse
from gateway.state.responses import Put, ResponseStore
from gateway.state.rewriting import (
    TERMINALS,
    Event,
    OutputItems,
    is_usable_id,
    read_event,
    rewrite_event,
    rewrite_response,
)
from gateway.state.stored_calls import StoredCalls
from gateway.types import Body

STORE_WAIT_S: Final = 2.0
"""How long the end of an answer waits for its turn to be stored."""


@dataclass(frozen=True, slots=True)
class Past:
    """What a turn continues: `links`, oldest first, and the response or conversation that the request named."""

    links: Sequence[Link]
    parent: str | None = None
    conversation: str | None = None


class Turns:
    """Begins turns. Mutable: `unstored` counts the responses that could not be stored."""

    def __init__(self, responses: ResponseStore, conversations: Conversations, turn_life_s: float) -> None:
        self.responses = responses
        self.conversations = conversations
        self.unstored = 0
        self.stored = StoredCalls(responses)
        self._turn_life_s = turn_life_s

    async def begin(self, key: ApiKey, body: Body, rule: RouteRule) -> Turn:
        """Resolves the turn's past into the body. Raises GatewayError. Locks a conversation until `close`."""
        fields = parse_object(bytes(body)) or {}
        if fields.get("background") is True:
            message = "Responses that this gateway keeps are not run in the background: ask without 'background'."
            raise GatewayError("invalid_item", message, param="background")
        past = await self._past(key, fields)
        new = as_items(fields.get("input"))
        name = secrets.token_hex(8)
        try:
            new = [await self._dereferenced(key, past, item) if is_reference(item) else item for item in new]
            items = resolve(past.links, new)
            check_calls(items)
            upstream = self._upstream_body(body, fields, past, items, rule)
            if past.conversation is not None:
                await self.conversations.lock(key.team_id, past.conversation, name, self._turn_life_s)
                # An item that another turn appended while this one waited is also part of the past.
                past = await self._past(key, fields)
                items = resolve(past.links, new)
                check_calls(items)
                upstream = self._upstream_body(body, fields, past, items, rule)
        except BaseException:
            if past.conversation is not None:
                await self.conversations.unlock(key.team_id, past.conversation, name)
            raise
        return Turn(self, key, past, with_ids(new), upstream, keep=fields.get("store") is not False, lock=name)

    async def _past(self, key: ApiKey, fields: dict[str, Any]) -> Past:
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


@dataclass(slots=True)
class Turn:
    """One turn. Mutable: the response's id once it is known, whether it is stored, and the output so far."""

    _turns: Turns
    _key: ApiKey
    _past: Past
    _input: Sequence[Item]
    body: bytes
    keep: bool
    lock: str
    response_id: str | None = None
    _reserved: bool = False
    _ended: bool = False
    _held: bytes = b""  # the event that is not complete yet
    _output: OutputItems = field(default_factory=OutputItems)

    async def whole(self, body: bytes) -> bytes:
        """Returns a JSON answer as the client is shown it. An answer that is not a response passes unchanged."""
        response = parse_object(body)
        if response is None or response.get("object") != "response":
            return body
        self.response_id = self._id_for(response)
        kept = self.keep and await self._store({**response, **self._changes(response, kept=True)}, reserved=False)
        self._ended = True
        return rewrite_response(body, self._changes(response, kept=kept))  # the id may have been replaced

    async def stream(self, data: bytes) -> bytes:
        """Takes bytes from the provider and returns whole events as the client is shown them."""
        window = self._held + data
        end = max(0, last_boundary(window))
        self._held = window[end:]
        return await self._events(window[:end])

    async def finish(self, closing: bytes = b"", *, clean: bool = True) -> bytes:
        """Returns the rest of a stream that ended cleanly, followed by the gateway's own events."""
        rest, self._held = self._held if clean else b"", b""
        return await self._events(rest) + await self._events(closing)

    async def _events(self, data: bytes) -> bytes:
        return b"".join([await self._event(read_event(raw)) for raw in split_events(data)])

    async def close(self) -> None:
        """Releases what a turn without a response still holds: the reserved id and the conversation's lock."""
        if self._reserved and not self._ended and self.response_id is not None:
            await self._turns.responses.delete(self._key.team_id, self.response_id)
        if self._past.conversation is not None:
            await self._turns.conversations.unlock(self._key.team_id, self._past.conversation, self.lock)

    async def _event(self, event: Event) -> bytes:
        fields = event.fields
        if fields is None:
            return event.raw
        self._output.note(fields)
        response = fields.get("response")
        if not isinstance(response, dict):
            return event.raw
        if self.response_id is None:
            await self._begin_response(response)
        kept = self.keep
        if fields.get("type") in TERMINALS and not self._ended:
            kept = await self._end_response(response)
        return rewrite_event(event, self._changes(response, kept=kept))

    async def _begin_response(self, response: dict[str, Any]) -> None:
        """Reserves the response's id when the response first appears, before the client sees it."""
        self.response_id = self._id_for(response)
        if not self.keep:
            return
        begun = {**response, **self._changes(response, kept=True)}
        self._reserved = await self._store(begun, reserved=False, running=True)
        self.keep = self._reserved

    async def _end_response(self, response: dict[str, Any]) -> bool:
        """Handles the end of the response. Returns whether it is stored."""
        self._ended = True
        if not self.keep:
            return False
        output = response.get("output")
        merged = self._output.merged(output if isinstance(output, list) else [])
        ended = {**response, **self._changes(response, kept=True), "output": merged}
        kept = await self._store(ended, reserved=self._reserved)
        if not kept:
            self._ended = False  # `close` releases the reserved id
        return kept

    async def _store(self, response: dict[str, Any], *, reserved: bool, running: bool = False) -> bool:
        """Stores the response.

        Returns whether that succeeded within STORE_WAIT_S. An id that is taken is replaced by a new one.
        """
        try:
            async with asyncio.timeout(STORE_WAIT_S):
                done = await self._put(response, reserved=reserved, running=running)
                if done is Put.REFUSED and not reserved:
                    self.response_id = response["id"] = new_response_id()
                    done = await self._put(response, reserved=False, running=running)
                if done is Put.STORED and not running:
                    await self._append(response)
        except (GatewayError, TimeoutError, ValueError) as error:
            self._turns.unstored += 1
            structlog.get_logger("gateway.state").warning(
                "response_not_stored", response_id=self.response_id, reason=str(error) or type(error).__name__
            )
            return False
        return done is Put.STORED

    async def _put(self, response: dict[str, Any], *, reserved: bool, running: bool) -> Put:
        output = response.get("output")
        if isinstance(output, list):
            response["output"] = with_ids([item for item in output if isinstance(item, dict)])
        record = StoredResponse(response, self._input, self._past.parent, self._key.key_id)
        return await self._turns.responses.put(self._key.team_id, record, running=running, reserved=reserved)

    async def _append(self, response: dict[str, Any]) -> None:
        """Appends a completed turn's input and output to its conversation in one step."""
        conversation = self._past.conversation
        if conversation is not None and response.get("status") in ("completed", "incomplete"):
            items = [*self._input, *shown(response.get("output") or [])]
            await self._turns.conversations.append(self._key.team_id, conversation, items, self.lock)

    def _id_for(self, response: dict[str, Any]) -> str:
        identifier = response.get("id")
        return str(identifier) if is_usable_id(identifier) else new_response_id()

    def _changes(self, response: dict[str, Any], *, kept: bool) -> dict[str, Any]:
        """Returns the changes of the table in `rewriting`: where the shown response differs from the provider's."""
        wanted: dict[str, Any] = {
            "id": self.response_id,
            "previous_response_id": self._past.parent,
            "store": kept,
        }
        if self._past.conversation is not None:
            wanted["conversation"] = {"id": self._past.conversation}
        return {name: value for name, value in wanted.items() if response.get(name, "") != value}


def new_response_id() -> str:
    """Returns a new response id."""
    return f"resp_{secrets.token_hex(24)}"


def _conversation_id(given: object) -> str | None:
    if given is None:
        return None
    identifier = given.get("id") if isinstance(given, dict) else given
    if not isinstance(identifier, str):
        raise GatewayError("invalid_item", "'conversation' must be an id, or an object with one.", param="conversation")
    return identifier
