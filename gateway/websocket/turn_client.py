"""The client of one turn: the handler reads a message as a request's body, and events are sent as messages.

It implements `http.client.Client`, so that a turn passes the whole path of a request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from gateway.concurrency.off_loop import LONG_BYTES, OffLoop
from gateway.errors import GatewayError
from gateway.http.client import Watch, bounded, too_large
from gateway.http.inner_client import InnerClient
from gateway.http.websocket_connection import WebSocketConnection
from gateway.protocol.byte_search import joined
from gateway.protocol.response_events import TERMINAL_STATUSES
from gateway.protocol.sse_framing import last_boundary, split_events
from gateway.state import replay
from gateway.state.items import Item
from gateway.state.large_work import parse_object_whole
from gateway.state.rewriting import OutputItems, read_event
from gateway.types import Body, Headers, Scope
from gateway.websocket.memory import Remembered
from gateway.websocket.messages import EventMessage, error_message, event_message

_TERMINAL: Final = tuple(kind.encode() for kind in TERMINAL_STATUSES)
_EXAMINED: Final = (b"output_item.done", *_TERMINAL)
"""Events that contain one of these words are examined."""
_ERROR: Final = 400
_UNAUTHORIZED: Final = 401
_SERVER_ERROR: Final = 500


class Answered(Protocol):
    """The turn that is answered."""

    @property
    def size(self) -> int:
        """The size of its input and its output so far in bytes, which tells how long work on them takes."""

    def on_response_end(self, response: dict[str, Any], output: Sequence[Item]) -> Callable[[], Remembered] | None:
        """Called with the response of a terminal event and its output items, before the client receives the event.

        Returns what makes the response's entry for the memory, which may take long and may run in any thread.
        """

    def remember(self, remembered: Remembered) -> None:
        """Takes this entry."""


class TurnSocket(Protocol):
    """The WebSocket of the turn. `watches`: who is told that its client has left."""

    connection: WebSocketConnection
    watches: set[LeaveWatch]


class _Shown(NamedTuple):
    """One event. `fields` if it has to be examined. `message`: for the client, None if it is not sent to it."""

    fields: dict[str, Any] | None
    message: EventMessage | None


class TurnClient(InnerClient):
    """See `http.client.Client`. `body` is the body of the request, or the error that prevented it.

    Large events are prepared in a thread. Until they are sent, everything behind them waits.

    State that changes: `ended`: the answer is complete; `failed`: the status of the answer if it is an error;
    `is_unauthorized`: the key is not valid any more; `_rest`: an incomplete event; `_waiting`: bytes behind it that
    have to be prepared in a thread; `_output`: the items so far.
    """

    __slots__ = (
        "_body", "_connection", "_lane", "_off_loop", "_output", "_rest", "_turn", "_waiting", "_watches", "ended",
        "failed", "is_unauthorized",
    )  # fmt: skip

    def __init__(
        self,
        scope: Scope,
        fields: dict[bytes, bytes],
        body: Body | GatewayError,
        lane: str,
        socket: TurnSocket,
        turn: Answered,
        off_loop: OffLoop,
    ) -> None:
        super().__init__(scope, fields)
        self.ended = False
        self.failed = 0
        self.is_unauthorized = False
        self._body = body
        self._lane = lane
        self._connection = socket.connection
        self._watches = socket.watches
        self._turn = turn
        self._off_loop = off_loop
        self._output = OutputItems()
        self._rest = b""
        self._waiting: list[Body] = []

    def body_length(self, max_bytes: int) -> int | None:
        """See `Client`."""
        length = 0 if isinstance(self._body, GatewayError) else len(self._body)
        if length > max_bytes:
            raise too_large(max_bytes)
        return length

    async def read_body(self, max_bytes: int, timeout_s: float, length: int | None = None) -> Body:
        """See `Client`. The body has come with the message."""
        del timeout_s, length
        body, self._body = self._body, b""
        if isinstance(body, GatewayError):
            raise body
        return bounded(body, max_bytes)

    def write_now(self, data: Body) -> bool:
        """See `Client`. Each complete event is sent as a message. An incomplete one waits for its rest."""
        if self._waiting or self._takes_long(data):
            self._waiting.append(data)
            return False
        self._rest, events = _shown(self._rest, data, self._lane)
        for event in events:
            entry = self._note(event)
            if entry is not None:
                self._turn.remember(entry())
        return self._send([event.message.message for event in events if event.message is not None])

    async def drained(self) -> None:
        """See `Client`."""
        while self._waiting:
            count = len(self._waiting)
            work = partial(_shown_long, self._rest, self._waiting[:count], self._lane, self._connection.framed)
            rest, events, frames = await self._off_loop.run(work)
            for event in events:
                entry = self._note(event)
                if entry is not None:
                    self._turn.remember(await self._off_loop.run(entry))
            self._rest = rest
            del self._waiting[:count]
            self._count_sent(sum(map(len, frames)))
            self._connection.send_framed(frames)
        await self._connection.drain()

    async def end(self, data: Body = b"") -> None:
        """See `Client`. An incomplete event is dropped."""
        if not self.write_now(data):
            await self.drained()
        self.ended = True

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See `Client`. The answer is sent as an error message, or as the events of a whole response."""
        self.status = status
        if status >= _ERROR:
            self.failed = status
            self.is_unauthorized = status == _UNAUTHORIZED  # a provider's 401 is never passed on as one
            self._send([error_message(status, body, headers, self._lane)])
        else:
            work = partial(_as_events, body)
            await self.write(await self._off_loop.run(work) if len(body) > LONG_BYTES else work())
        self.ended = True

    def output_so_far(self) -> Sequence[Item]:
        """Returns the complete output items of the answer so far."""
        return self._output.merged([])

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """See `Client`."""
        return LeaveWatch(on_leave, self._connection, self._watches)

    def _takes_long(self, data: Body) -> bool:
        """Whether work on this data takes long: it is long itself, or it ends a turn that is."""
        if len(self._rest) + len(data) > LONG_BYTES:
            return True
        return any(word in data for word in _TERMINAL) and self._turn.size > LONG_BYTES

    def _note(self, event: _Shown) -> Callable[[], Remembered] | None:
        """Notes an event before it is sent. Returns what makes the entry of a response that has to be remembered."""
        if event.message is not None and event.message.error is not None:
            status = event.message.error.get("status")
            self.failed = status if isinstance(status, int) else _SERVER_ERROR
        fields = event.fields
        if fields is None:
            return None
        self._output.note(fields)
        response = fields.get("response")
        if fields.get("type") not in TERMINAL_STATUSES or not isinstance(response, dict):
            return None
        output = response.get("output")
        return self._turn.on_response_end(response, self._output.merged(output if isinstance(output, list) else []))

    def _send(self, messages: list[bytes]) -> bool:
        self._count_sent(sum(map(len, messages)))
        return self._connection.send(messages)

    def _count_sent(self, size: int) -> None:
        if size and not self.bytes_out:
            self.first_byte = time.perf_counter()
        self.bytes_out += size


def _shown(rest: bytes, data: Body, lane: str) -> tuple[bytes, list[_Shown]]:
    """Returns the incomplete event at the end, and the events before it."""
    window = bytes(rest + data if rest else data)
    end = max(0, last_boundary(window))
    return window[end:], [
        _Shown(
            read_event(event).fields if any(word in event for word in _EXAMINED) else None, event_message(event, lane)
        )
        for event in split_events(window[:end])
    ]


def _shown_long(
    rest: bytes, data: Sequence[Body], lane: str, framed: Callable[[bytes], bytes]
) -> tuple[bytes, list[_Shown], list[bytes]]:
    """Like `_shown`, in a thread. Returns the messages as frames, too."""
    left, events = _shown(rest, joined(data), lane)
    return left, events, [framed(event.message.message) for event in events if event.message is not None]


def _as_events(body: bytes) -> bytes:
    """Returns a whole response as the events that show it. Anything else stays as it is. May run in any thread."""
    response = parse_object_whole(body)
    return body if response is None else b"".join(replay.events(response))


class LeaveWatch:
    """Calls `on_leave` when the client of one turn has left."""

    __slots__ = ("_watches", "on_leave")

    def __init__(
        self, on_leave: Callable[[], object], connection: WebSocketConnection, watches: set[LeaveWatch]
    ) -> None:
        self.on_leave = on_leave
        self._watches = watches
        if connection.is_open:
            watches.add(self)
        else:
            on_leave()

    def close(self) -> None:
        """Stops watching. Idempotent."""
        self._watches.discard(self)
