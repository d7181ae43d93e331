"""One turn: what goes upstream, what its client is shown, and what is stored of it. `turns` begins them.

A response that cannot be stored is shown with `store: false`, so its client does not try to continue it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import structlog

from gateway.concurrency.off_loop import LONG_BYTES
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.protocol.response_events import TERMINAL_STATUSES
from gateway.protocol.sse_framing import last_boundary, split_events
from gateway.state.conversations import Conversations
from gateway.state.items import Item, with_ids
from gateway.state.large_work import parse_object_whole
from gateway.state.past import Base, Past
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
from gateway.state.shapes import Preceded, Shape
from gateway.store.errors import StoreError

T = TypeVar("T")

STORE_WAIT_S: Final = 2.0
"""How long the end of an answer waits for its turn to be stored."""
_RELEASE_WAIT_S: Final = 0.5
_LONGEST_END: Final = 4  # of an event: a blank line of two line ends


class Due(NamedTuple):
    """A compaction that is due if the turn's input has more than `threshold_tokens`.

    `body` asks the model for a summary of it. `compacted` returns, for the text of the summary, the body that goes on
    from it and the item that stands for it.
    """

    threshold_tokens: int
    body: bytes
    compacted: Callable[[str], tuple[bytes, Item]]


class Keeper(Protocol):
    """Where turns are stored. Mutable: `unstored` counts the responses that could not be stored."""

    responses: ResponseStore
    conversations: Conversations
    unstored: int


@dataclass(slots=True)
class Turn:
    """One turn. `window` is its whole input, with what it continues. `shape` is how compaction changes its output.

    `without_blobs` makes the body without reasoning in encrypted form; None if there is none in it.

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
    shape: Shape | None = None
    due: Due | None = None
    maker: str = ""
    without_blobs: Callable[[], bytes] | None = None
    response_id: str | None = None
    _reserved: bool = False
    _ended: bool = False
    _held: list[bytes] = field(default_factory=list)  # the event that is not complete yet
    _output: OutputItems = field(default_factory=OutputItems)

    @property
    def blobs_made_by(self) -> str:
        """Who made the reasoning in encrypted form that the turn continues, or "" if that is not known."""
        return self._past.maker if self.without_blobs is not None else ""

    @property
    def base(self) -> Base | None:
        """What only the provider has of the turn's past."""
        return self._past.base

    @property
    def base_maker(self) -> str:
        """Who has that, or "" if that is not known."""
        return self._past.base_maker

    def leave_blobs_out(self, reason: str) -> bytes:
        """Takes reasoning in encrypted form out of the body, because nobody can read it. Returns the body."""
        if self.without_blobs is not None:
            self.body, self.without_blobs = self.without_blobs(), None
            self._told("reasoning_left_out", reason)
        return self.body

    async def announce(self) -> None:
        """Does what must be done before admission: nothing, for a turn whose client waits for it."""

    async def whole(self, body: bytes) -> bytes:
        """Returns a JSON answer as the client is shown it. An answer that is not a response passes unchanged."""
        is_large = len(body) > LONG_BYTES
        response = await self._run(partial(parse_object_whole, body), is_long=is_large)
        if response is None or response.get("object") != "response":
            return body
        body, response = self._shaped(body, response)
        self.response_id = self._id_for(response)
        kept = self.keep and await self._store({**response, **self._changes(response, kept=True)}, reserved=False)
        self._ended = kept or not self._reserved
        work = partial(rewrite_response, body, self._changes(response, kept=kept))  # the id may have been replaced
        return await self._run(work, is_long=is_large)

    async def stream(self, data: bytes) -> bytes:
        """Takes bytes from the provider and returns whole events as the client is shown them."""
        before = self._held[-1][-_LONGEST_END:] if self._held else b""
        boundary = last_boundary(before + data)
        if boundary < 0:
            self._hold(data)
            return b""
        cut = max(0, boundary - len(before))
        ready = b"".join([*self._held, data[:cut]])  # once, when the event is whole
        self._held.clear()
        self._hold(data[cut:])
        return await self._events(ready)

    def _hold(self, data: bytes) -> None:
        if self._held and len(self._held[-1]) < _LONGEST_END:
            data = self._held.pop() + data
        if data:
            self._held.append(data)

    async def finish(self, closing: bytes = b"", *, clean: bool = True) -> bytes:
        """Returns the rest of a stream that ended cleanly, followed by the gateway's own events."""
        rest = b"".join(self._held) if clean else b""
        self._held.clear()
        return await self._events(rest) + await self._events(closing)

    def follow_summary(self, text: str) -> None:
        """Goes on from a summary of the turn's whole input, instead of the input itself. Raises GatewayError."""
        if self.due is not None:
            self.body, item = self.due.compacted(text)
            self.shape, self.due, self.without_blobs = Preceded(item), None, None

    def _shaped(self, body: bytes, response: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        output = None if self.shape is None else self.shape.whole(response)
        if output is None:
            return body, response
        return rewrite_response(body, {"output": output}), {**response, "output": output}

    def _shaped_events(self, data: bytes, *, whole: bool = False) -> list[Event]:
        events = [read_event(raw, whole=whole or self.shape is not None) for raw in split_events(data)]
        return events if self.shape is None else [shown for event in events for shown in self.shape.events(event)]

    async def _events(self, data: bytes) -> bytes:
        events = await self._run(partial(self._shaped_events, data), is_long=len(data) > LONG_BYTES)
        return b"".join([await self._event(event) for event in events])

    async def close(self) -> None:
        """Releases what a turn without a response still holds: the reserved id and the conversation's lock.

        While the store is away, nothing is released: the lock ends by itself, and the response reads as failed later.
        """
        try:
            if self._reserved and not self._ended and self.response_id is not None:
                await self._keeper.responses.delete(self._key.team_id, self.response_id)
            await self._unlock()
        except (GatewayError, StoreError) as error:
            self._told("turn_not_released", str(error))

    async def _unlock(self) -> None:
        if self._past.conversation is not None:
            await self._keeper.conversations.unlock(self._key.team_id, self._past.conversation, self.lock)

    def _told(self, event: str, reason: str) -> None:
        """Says in the log why something of the turn was not kept."""
        structlog.get_logger("gateway.state").warning(event, response_id=self.response_id, reason=reason)

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
        work = partial(rewrite_event, event, self._changes(response, kept=kept))
        return await self._run(work, is_long=len(event.raw) > LONG_BYTES)

    async def _run(self, work: Callable[[], T], *, is_long: bool) -> T:
        return await self._keeper.responses.large_work.run(work, is_long=is_long)

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
        self._ended = kept or not self._reserved
        return kept

    async def _store(self, response: dict[str, Any], *, reserved: bool, running: bool = False) -> bool:
        """Stores the response.

        Returns whether each call succeeded within STORE_WAIT_S. An id that is taken is replaced by a new one.
        """
        reason, done = "", Put.REFUSED
        try:
            done = await self._put(response, reserved=reserved, running=running)
            if done is Put.REFUSED and not reserved:
                self.response_id = response["id"] = new_response_id()
                done = await self._put(response, reserved=False, running=running)
            if done is Put.STORED and not running:
                async with asyncio.timeout(STORE_WAIT_S):
                    await self._append(response)
            reason = "" if done is Put.STORED else done.name.lower()
        except (GatewayError, StoreError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
        if reason:
            self._keeper.unstored += 1
            self._told("response_not_stored", reason)
            await self._release(is_there=reserved or done is Put.STORED)
        return not reason

    async def _release(self, *, is_there: bool) -> None:
        """Takes back the response's id, so that nobody finds a response there that was shown as not stored."""
        if is_there and self.response_id is not None:
            try:
                async with asyncio.timeout(_RELEASE_WAIT_S):
                    await self._keeper.responses.delete(self._key.team_id, self.response_id)
                self._reserved = False
            except (GatewayError, StoreError, TimeoutError):
                self._reserved = True  # `close` tries again

    async def _put(self, response: dict[str, Any], *, reserved: bool, running: bool) -> Put:
        responses, record = self._keeper.responses, self._stored(response)
        packed = await responses.packed(self._key.team_id, record)
        async with asyncio.timeout(STORE_WAIT_S):
            return await responses.put(self._key.team_id, record, running=running, reserved=reserved, packed=packed)

    def _stored(self, response: dict[str, Any]) -> StoredResponse:
        """Returns what is stored of the turn. Gives each output item an id of its own."""
        output = response.get("output")
        if isinstance(output, list):
            response["output"] = with_ids([item for item in output if isinstance(item, dict)])
        past = self._past
        is_linked = past.stored and past.links and past.parent is not None
        parent, base = (past.parent, "") if is_linked else (None, "" if past.base is None else past.base.text())
        own = self._input if past.stored else with_ids(self.window)
        now_s = int(time.time())
        return StoredResponse(response, own, parent, self._key.key_id, now_s, self.maker, past.place, base)

    async def _append(self, response: dict[str, Any]) -> None:
        """Appends a completed turn's input and output to its conversation in one step."""
        conversation = self._past.conversation
        if conversation is not None and response.get("status") in ("completed", "incomplete"):
            items = [*self._input, *(response.get("output") or [])]
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
