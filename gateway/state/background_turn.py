"""One turn that runs in the background. Its client is answered before it runs, and reads the stored response later.

    await turn.announce()          before admission: queues the response, or raises GatewayError
    turn.snapshot                  the queued response, as its client receives it
    await turn.keep_events()       from time to time while it runs: stores its events for clients that follow them
    turn.problem = ...             the reason, if the response fails
    await turn.close()             at the end of its run

What the relay passes through the turn is only stored, and not sent to any client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

from gateway.concurrency.off_loop import LONG_BYTES
from gateway.errors import GatewayError
from gateway.protocol.response_events import RUNNING, TERMINAL_STATUSES
from gateway.state.background import Background, EndResult, Job, QueueResult, ResponseEnd, new_job, queue_full
from gateway.state.event_log import EventLog
from gateway.state.following import follow
from gateway.state.large_work import parse_object_whole
from gateway.state.records import StoredResponse
from gateway.state.replay import ending_events, terminal_event
from gateway.state.responses import previous_not_found
from gateway.state.rewriting import Event
from gateway.state.snapshot import failed_response, queued_response
from gateway.state.stored_calls import LocalStream
from gateway.state.turn import Turn, new_response_id
from gateway.store.errors import StoreError

_OWN_EVENTS: Final = frozenset({"response.created", "response.queued"})
"""Events of the provider that are dropped, because the gateway has made its own before."""
_RETRY_S: Final = 0.25
_END_TIMEOUT_S: Final = 30.0
"""How long storing the end of a response is retried while the store is unavailable. Then its lease lapses."""
_KEEP_EVERY_S: Final = 0.1


class Problem(NamedTuple):
    """Why a response has failed, for its client."""

    code: str
    message: str


NO_ANSWER: Final = Problem("server_error", "The response was not finished.")


@dataclass(slots=True)
class BackgroundTurn(Turn):
    """One turn in the background.

    Mutable: `accepted` (its client has received the queued response), `problem` (the reason, if the response fails),
    its log, and whether it has been queued and has ended.
    """

    background: Background = field(kw_only=True)
    snapshot: dict[str, Any] = field(kw_only=True)
    accepted: bool = False
    problem: Problem = NO_ANSWER
    _job: Job = field(init=False)
    _log: EventLog = field(init=False)
    _queued: bool = False
    _reserved_bytes: int = 0
    _events_kept_s: float = 0.0

    def __post_init__(self) -> None:
        """Gives the response its id."""
        self.response_id = self.snapshot["id"]
        self.snapshot |= self._changes(self.snapshot, kept=self.keep)
        self._job = new_job(self._key.team_id, self.snapshot["id"], kept=self.keep)
        self._log = self.background.new_log()
        self._log.add("response.created", {"response": self.snapshot})
        self._log.add("response.queued", {"response": self.snapshot})

    @property
    def job(self) -> Job:
        """The job of the response, for the rounds of its worker."""
        return self._job

    @property
    def event_stream(self) -> LocalStream:
        """A stream of all its events, as they come."""
        return LocalStream(follow(self.background, self._job.team_id, self._job.response_id, -1))

    async def announce(self) -> None:
        """Queues the response. Raises GatewayError."""
        self.background.reserve_bytes(len(self.body))
        self._reserved_bytes = len(self.body)  # the body may change before the end
        try:
            done = await self.background.put(self._job, self._record(self.snapshot), self._log)
        except ValueError:
            raise GatewayError("invalid_item", "The input is larger than what is kept of a response.") from None
        if done is QueueResult.FULL:
            policy = self.background.policy
            message = f"{policy.concurrency} background responses of a team may run, and {policy.queue} may wait."
            raise queue_full(message, policy.concurrency + policy.queue, "team")
        if done is not QueueResult.DONE:
            raise previous_not_found(self._past.parent or self.snapshot["id"])
        self._queued = True

    async def whole(self, body: bytes) -> bytes:
        """Takes a JSON answer. See `Turn.whole`."""
        response = await self._run(partial(parse_object_whole, body), is_long=len(body) > LONG_BYTES)
        if response is None or response.get("object") != "response":
            return body
        body, response = self._changed(body, response)
        record = self._record({**response, **self._changes(response, kept=self.keep)})
        self._log.add("response.in_progress", {"response": {**self.snapshot, "status": "in_progress"}})
        if await self._fits(record):
            for kind, event in ending_events(record.response):
                self._log.add(kind, event)
            await self._end_with(record)
        return body

    async def keep_events(self) -> None:
        """Stores the new events. If that fails, the next call tries again."""
        self._events_kept_s = time.monotonic()
        if not self._ended:
            await self.background.keep_events(self._job, self._log)

    async def close(self) -> None:
        """Ends a response that has not ended: one that was accepted fails, and any other is removed."""
        self.background.release_bytes(self._reserved_bytes)
        self._reserved_bytes = 0
        try:
            await self._end_unended()
            await self._unlock()
        except (GatewayError, StoreError) as error:
            self._warn("turn_not_released", str(error))

    async def _end_unended(self) -> None:
        if self._queued and not self._ended:
            if self.accepted:
                response = failed_response(self.snapshot, *self.problem)
                self._log.add(*terminal_event(response))
                await self._try_to_end(ResponseEnd(self._record(response), self._log))
            else:
                self._ended = True
                await self.background.end(self._job, "unborn", ResponseEnd(self._record(self.snapshot), self._log))

    async def _events(self, data: bytes) -> bytes:
        work = partial(self._changed_events, data, whole=True)
        for event in await self._run(work, is_long=len(data) > LONG_BYTES):
            await self._event(event)
        if not self._ended and time.monotonic() - self._events_kept_s >= _KEEP_EVERY_S:
            try:
                await self.keep_events()
            except (GatewayError, StoreError) as error:
                self._warn("response_not_stored", str(error))
        return b""

    async def _event(self, event: Event) -> bytes:
        fields = event.fields
        if fields is None or self._ended or fields.get("type") in _OWN_EVENTS:
            return b""
        self._output.note(fields)
        response = fields.get("response")
        changes = self._changes(response, kept=self.keep) if isinstance(response, dict) else {}
        if not isinstance(response, dict) or fields.get("type") not in TERMINAL_STATUSES:
            await self._log.relay(event, changes, self._turn_store.responses.large_work)
            return b""
        output = response.get("output")
        merged = self._output.merged(output if isinstance(output, list) else [])
        record = self._record({**response, **changes, "output": merged})
        if await self._fits(record):
            await self._log.relay(event, changes, self._turn_store.responses.large_work)
            await self._end_with(record)
        return b""

    async def _fits(self, record: StoredResponse) -> bool:
        """Whether the response can be stored and has ended. If not, sets the `problem` with which `close` ends it."""
        try:
            await self._turn_store.responses.packed(self._key.team_id, record)
        except ValueError as error:
            self.problem = Problem("server_error", f"The answer cannot be kept: {error}.")
            return False
        if record.status in RUNNING:
            self.problem = Problem("server_error", "The provider has not finished the response.")
            return False
        return True

    async def _end_with(self, record: StoredResponse) -> None:
        """Stores the end of the response, while the worker has its lease."""
        appended: list[bytes] = []
        conversation = self._past.conversation
        if conversation is not None and self.keep and record.status in ("completed", "incomplete"):
            items = [*self._input, *record.output]
            appended = await self._turn_store.conversations.packed(self._key.team_id, items)
        await self._try_to_end(ResponseEnd(record, self._log, conversation, self.lock, appended))

    async def _try_to_end(self, response_end: ResponseEnd) -> None:
        deadline_s = time.monotonic() + _END_TIMEOUT_S
        while True:
            try:
                ended = await self.background.end(self._job, "worker", response_end)
            except (GatewayError, StoreError) as error:
                self._warn("response_not_stored", str(error))
            else:
                if ended is not EndResult.LEASE:
                    self._ended = True
                    self._note_end(ended)
                    return
            if time.monotonic() >= deadline_s:
                self._turn_store.unstored += 1
                self._warn("response_not_stored", "the store was away for too long")
                return
            await asyncio.sleep(_RETRY_S)  # the next round renews the lease, unless the response was ended meanwhile

    def _note_end(self, ended: EndResult) -> None:
        if ended is EndResult.NOT_APPENDED:
            self._warn("response_not_stored", f"the conversation {self._past.conversation!r} is full or gone")

    def _record(self, response: dict[str, Any]) -> StoredResponse:
        return self._stored({**response})

    def _changes(self, response: Mapping[str, Any], *, kept: bool) -> dict[str, Any]:
        changes = super(BackgroundTurn, self)._changes(response, kept=kept)
        return changes if response.get("background") is True else {**changes, "background": True}


def queued_turn_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the response to a request that asks to run in the background, before it runs."""
    return queued_response(fields, new_response_id(), int(time.time()))
