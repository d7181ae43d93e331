"""One turn: what is sent upstream, what its client receives, and what is stored of it. `turns` begins them.

A response that cannot be stored is sent with `store: false`, so that its client does not try to continue it.
"""

from __future__ import annotations

import asyncio
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
from gateway.state.output_changes import OutputChange, PrefixedOutput
from gateway.state.own_ids import new_id
from gateway.state.past import Past, ProviderBase
from gateway.state.records import StoredResponse
from gateway.state.responses import PutResult, ResponseStore
from gateway.state.rewriting import (
    Event,
    OutputItems,
    is_usable_id,
    read_event,
    rewrite_event,
    rewrite_response,
)
from gateway.store.errors import StoreError

T = TypeVar("T")

STORE_WAIT_S: Final = 2.0
"""How long the end of an answer waits until its turn is stored."""
_RELEASE_WAIT_S: Final = 0.5
_MAX_EVENT_END_BYTES: Final = 4  # of an event: a blank line of two line ends


class DueCompaction(NamedTuple):
    """A compaction that is due if the turn's input has more than `threshold_tokens`.

    `body` asks the model for a summary. `apply` takes the text of the summary. It returns the body that continues from
    it, and the item that replaces the summarised input.
    """

    threshold_tokens: int
    body: bytes
    apply: Callable[[str], tuple[bytes, Item]]


class TurnStore(Protocol):
    """Stores turns. Mutable: `unstored` counts the responses that could not be stored."""

    responses: ResponseStore
    conversations: Conversations
    unstored: int


@dataclass(slots=True)
class Turn:
    """One turn.

    `window` is its whole input, with what it continues. `output_change` is how compaction changes its output.

    `without_encrypted_reasoning` makes the body without reasoning in encrypted form; None if there is none in it.
    `has_own_id`: the response never has its provider's id, see own_ids.py.

    Mutable: the response's id once it is known, whether it is stored, and the output so far.
    """

    _turn_store: TurnStore
    _key: ApiKey
    _past: Past
    _input: Sequence[Item]
    body: bytes
    keep: bool
    lock: str
    window: Sequence[Item] = ()
    output_change: OutputChange | None = None
    due: DueCompaction | None = None
    maker: str = ""
    without_encrypted_reasoning: Callable[[], bytes] | None = None
    response_id: str | None = None
    has_own_id: bool = False
    _reserved: bool = False
    _ended: bool = False
    _partial: list[bytes] = field(default_factory=list)  # the event that is not complete yet
    _output: OutputItems = field(default_factory=OutputItems)

    @property
    def reasoning_maker(self) -> str:
        """The key that made the encrypted reasoning which the turn continues, or "" if that is unknown."""
        return self._past.maker if self.without_encrypted_reasoning is not None else ""

    @property
    def base(self) -> ProviderBase | None:
        """The beginning of the turn's past that only the provider has."""
        return self._past.base

    @property
    def base_maker(self) -> str:
        """The key that made this beginning, or "" if that is unknown."""
        return self._past.base_maker

    def leave_reasoning_out(self, reason: str) -> bytes:
        """Removes encrypted reasoning from the body, because nobody can read it. Returns the body."""
        if self.without_encrypted_reasoning is not None:
            self.body, self.without_encrypted_reasoning = self.without_encrypted_reasoning(), None
            self._warn("reasoning_left_out", reason)
        return self.body

    async def announce(self) -> None:
        """Prepares the turn before admission. Only background turns need that."""

    async def whole(self, body: bytes) -> bytes:
        """Returns a JSON answer as the client receives it. An answer that is not a response stays unchanged."""
        is_large = len(body) > LONG_BYTES
        response = await self._run(partial(parse_object_whole, body), is_long=is_large)
        if response is None or response.get("object") != "response":
            return body
        body, response = self._changed(body, response)
        self.response_id = self._id_for(response)
        kept = self.keep and await self._store({**response, **self._changes(response, kept=True)}, reserved=False)
        self._ended = kept or not self._reserved
        work = partial(rewrite_response, body, self._changes(response, kept=kept))  # the id may have been replaced
        return await self._run(work, is_long=is_large)

    async def stream(self, data: bytes) -> bytes:
        """Takes bytes from the provider, and returns whole events as the client receives them."""
        before = self._partial[-1][-_MAX_EVENT_END_BYTES:] if self._partial else b""
        boundary = last_boundary(before + data)
        if boundary < 0:
            self._hold(data)
            return b""
        cut = max(0, boundary - len(before))
        ready = b"".join([*self._partial, data[:cut]])  # joined once, when the event is complete
        self._partial.clear()
        self._hold(data[cut:])
        return await self._events(ready)

    def _hold(self, data: bytes) -> None:
        if self._partial and len(self._partial[-1]) < _MAX_EVENT_END_BYTES:
            data = self._partial.pop() + data
        if data:
            self._partial.append(data)

    async def finish(self, closing: bytes = b"", *, clean: bool = True) -> bytes:
        """Returns the rest of a stream, unless it broke off (`clean` is False), and then the gateway's own events."""
        rest = b"".join(self._partial) if clean else b""
        self._partial.clear()
        return await self._events(rest) + await self._events(closing)

    def follow_summary(self, text: str) -> None:
        """Replaces the turn's whole input by a summary of it. Raises GatewayError."""
        if self.due is not None:
            self.body, item = self.due.apply(text)
            self.output_change, self.due, self.without_encrypted_reasoning = PrefixedOutput(item), None, None

    def _changed(self, body: bytes, response: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        output = None if self.output_change is None else self.output_change.whole(response)
        if output is None:
            return body, response
        return rewrite_response(body, {"output": output}), {**response, "output": output}

    def _changed_events(self, data: bytes, *, whole: bool = False) -> list[Event]:
        events = [read_event(raw, whole=whole or self.output_change is not None) for raw in split_events(data)]
        change = self.output_change
        return events if change is None else [shown for event in events for shown in change.events(event)]

    async def _events(self, data: bytes) -> bytes:
        events = await self._run(partial(self._changed_events, data), is_long=len(data) > LONG_BYTES)
        return b"".join([await self._event(event) for event in events])

    async def close(self) -> None:
        """Releases the reserved id of a response that did not end, and the conversation's lock.

        If the store is unavailable, the lock expires by itself, and the response is shown as failed later.
        """
        try:
            if self._reserved and not self._ended and self.response_id is not None:
                await self._turn_store.responses.delete(self._key.team_id, self.response_id)
            await self._unlock()
        except (GatewayError, StoreError) as error:
            self._warn("turn_not_released", str(error))

    async def _unlock(self) -> None:
        if self._past.conversation is not None:
            await self._turn_store.conversations.unlock(self._key.team_id, self._past.conversation, self.lock)

    def _warn(self, event: str, reason: str) -> None:
        """Logs why something of the turn was not stored or released."""
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
        return await self._turn_store.responses.large_work.run(work, is_long=is_long)

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
        reason, done = "", PutResult.REFUSED
        try:
            done = await self._put(response, reserved=reserved, running=running)
            if done is PutResult.REFUSED and not reserved:
                self.response_id = response["id"] = new_response_id()
                done = await self._put(response, reserved=False, running=running)
            if done is PutResult.STORED and not running:
                async with asyncio.timeout(STORE_WAIT_S):
                    await self._append(response)
            reason = "" if done is PutResult.STORED else done.name.lower()
        except (GatewayError, StoreError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
        if reason:
            self._turn_store.unstored += 1
            self._warn("response_not_stored", reason)
            await self._release(is_there=reserved or done is PutResult.STORED)
        return not reason

    async def _release(self, *, is_there: bool) -> None:
        """Deletes the response, because its client was told that it is not stored."""
        if is_there and self.response_id is not None:
            try:
                async with asyncio.timeout(_RELEASE_WAIT_S):
                    await self._turn_store.responses.delete(self._key.team_id, self.response_id)
                self._reserved = False
            except (GatewayError, StoreError, TimeoutError):
                self._reserved = True  # `close` tries again

    async def _put(self, response: dict[str, Any], *, reserved: bool, running: bool) -> PutResult:
        responses, record = self._turn_store.responses, self._stored(response)
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
            await self._turn_store.conversations.append(self._key.team_id, conversation, items, self.lock)

    def _id_for(self, response: dict[str, Any]) -> str:
        identifier = response.get("id")
        return str(identifier) if is_usable_id(identifier) and not self.has_own_id else new_response_id()

    def _changes(self, response: Mapping[str, Any], *, kept: bool) -> dict[str, Any]:
        """Returns the fields of the table in `rewriting` in which the response differs from the provider's."""
        own_values: dict[str, Any] = {
            "id": self.response_id,
            "previous_response_id": self._past.parent,
            "store": kept,
        }
        if self._past.conversation is not None:
            own_values["conversation"] = {"id": self._past.conversation}
        return {name: value for name, value in own_values.items() if response.get(name, "") != value}


def new_response_id() -> str:
    """Returns a new response id."""
    return new_id("resp")
