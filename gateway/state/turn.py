"""One turn: what goes upstream, what its client is shown, and what is stored of it. `turns` begins them.

A response that cannot be stored is shown with `store: false`, so its client does not try to continue it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.response_events import TERMINAL_STATUSES
from gateway.protocol.sse_framing import last_boundary, split_events
from gateway.state.chain import Link
from gateway.state.conversations import Conversations
from gateway.state.items import Item, shown, with_ids
from gateway.state.records import StoredResponse
from gateway.state.responses import Put, ResponseStore
from gateway.state.rewriting import (
    Event,
    OutputItems,
    is_usable_id,
    read_event,
    rewrite_event,
    rewrite_response,
)

STORE_WAIT_S: Final = 2.0
"""How long the end of an answer waits for its turn to be stored."""


@dataclass(frozen=True, slots=True)
class Past:
    """What a turn continues: `links`, oldest first, and the response or conversation that the request named.

    `stored` means that the links can be read from the store. If they cannot, a response that is stored holds them too.
    """

    links: Sequence[Link]
    parent: str | None = None
    conversation: str | None = None
    stored: bool = True


class Keeper(Protocol):
    """Where turns are stored. Mutable: `unstored` counts the responses that could not be stored."""

    responses: ResponseStore
    conversations: Conversations
    unstored: int


@dataclass(slots=True)
class Turn:
    """One turn. `window` is its whole input, with what it continues.

    Mutable: the response's id once it is known, whether it is stored, and the output so far.
    """

    _keeper: Keeper
    _key: ApiKey
    _past: Past
    _input: Sequence[Item]
    body: bytes
    keep: bool
    lock: str
    window: Sequence[Item] = ()
    response_id: str | None = None
    _reserved: bool = False
    _ended: bool = False
    _held: bytes = b""  # the event that is not complete yet
    _output: OutputItems = field(default_factory=OutputItems)

    async def announce(self) -> None:
        """Does what must be done before admission: nothing, for a turn whose client waits for it."""

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
            await self._keeper.responses.delete(self._key.team_id, self.response_id)
        await self._unlock()

    async def _unlock(self) -> None:
        if self._past.conversation is not None:
            await self._keeper.conversations.unlock(self._key.team_id, self._past.conversation, self.lock)

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
        if fields.get("type") in TERMINAL_STATUSES and not self._ended:
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
            self._keeper.unstored += 1
            structlog.get_logger("gateway.state").warning(
                "response_not_stored", response_id=self.response_id, reason=str(error) or type(error).__name__
            )
            return False
        return done is Put.STORED

    async def _put(self, response: dict[str, Any], *, reserved: bool, running: bool) -> Put:
        record = self._stored(response)
        return await self._keeper.responses.put(self._key.team_id, record, running=running, reserved=reserved)

    def _stored(self, response: dict[str, Any]) -> StoredResponse:
        """Returns what is stored of the turn. Gives each output item an id of its own."""
        output = response.get("output")
        if isinstance(output, list):
            response["output"] = with_ids([item for item in output if isinstance(item, dict)])
        past = self._past
        own, parent = (self._input, past.parent) if past.stored else (with_ids(self.window), None)
        return StoredResponse(response, own, parent, self._key.key_id)

    async def _append(self, response: dict[str, Any]) -> None:
        """Appends a completed turn's input and output to its conversation in one step."""
        conversation = self._past.conversation
        if conversation is not None and response.get("status") in ("completed", "incomplete"):
            items = [*self._input, *shown(response.get("output") or [])]
            await self._keeper.conversations.append(self._key.team_id, conversation, items, self.lock)

    def _id_for(self, response: dict[str, Any]) -> str:
        identifier = response.get("id")
        return str(identifier) if is_usable_id(identifier) else new_response_id()

    def _changes(self, response: Mapping[str, Any], *, kept: bool) -> dict[str, Any]:
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
