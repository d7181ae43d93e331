"""The client of one turn: the handler reads a message as a request's body, and events are sent as messages.

It implements `http.client.Client`, so that a turn passes the whole path of a request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.http.client import Watch, bounded, too_large
from gateway.http.inner_client import InnerClient
from gateway.http.websocket_connection import WebSocketConnection
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.response_events import TERMINAL_STATUSES
from gateway.protocol.sse_framing import last_boundary, split_events
from gateway.state import replay
from gateway.state.items import Item
from gateway.state.rewriting import OutputItems, read_event
from gateway.types import Body, Headers, Scope
from gateway.websocket.messages import error_message, event_message

_EXAMINED: Final = (b"output_item.done", *(kind.encode() for kind in TERMINAL_STATUSES))
"""Events that contain one of these words are examined."""
_ERROR: Final = 400
_UNAUTHORIZED: Final = 401
_SERVER_ERROR: Final = 500
OnResponse = Callable[[dict[str, Any], Sequence[Item]], None]
"""Called with the response of a terminal event and its output items, before the client receives the event."""


class TurnClient(InnerClient):
    """See `http.client.Client`. `body` is the body of the request, or the error that prevented it.

    State that changes: `ended`: the answer is complete; `failed`: the status of the answer if it is an error;
    `is_unauthorized`: the key is not valid any more; `_rest`: an incomplete event; `_output`: the items so far.
    """

    __slots__ = (
        "_body", "_connection", "_lane", "_on_response", "_output", "_rest", "_watches", "ended", "failed",
        "is_unauthorized",
    )  # fmt: skip

    def __init__(
        self,
        scope: Scope,
        fields: dict[bytes, bytes],
        body: Body | GatewayError,
        lane: str,
        connection: WebSocketConnection,
        watches: set[LeaveWatch],
        on_response: OnResponse,
    ) -> None:
        super().__init__(scope, fields)
        self.ended = False
        self.failed = 0
        self.is_unauthorized = False
        self._body = body
        self._lane = lane
        self._connection = connection
        self._watches = watches
        self._on_response = on_response
        self._output = OutputItems()
        self._rest = b""

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
        window = self._rest + data if self._rest else bytes(data)
        end = max(0, last_boundary(window))
        self._rest = window[end:]
        messages = []
        for event in split_events(window[:end]):
            if any(word in event for word in _EXAMINED):
                self._examine(event)
            shown = event_message(event, self._lane)
            if shown is not None:
                messages.append(shown.message)
                if shown.error is not None:
                    status = shown.error.get("status")
                    self.failed = status if isinstance(status, int) else _SERVER_ERROR
        return self._send(messages)

    async def drained(self) -> None:
        """See `Client`."""
        await self._connection.drain()

    async def end(self, data: Body = b"") -> None:
        """See `Client`. An incomplete event is dropped."""
        self.write_now(data)
        self.ended = True

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See `Client`. The answer is sent as an error message, or as the events of a whole response."""
        self.status = status
        if status >= _ERROR:
            self.failed = status
            self.is_unauthorized = status == _UNAUTHORIZED  # a provider's 401 is never passed on as one
            self._send([error_message(status, body, headers, self._lane)])
        elif (response := parse_object(body)) is not None:
            self.write_now(b"".join(replay.events(response)))
        else:
            self.write_now(body)
        self.ended = True

    def output_so_far(self) -> Sequence[Item]:
        """Returns the complete output items of the answer so far."""
        return self._output.merged([])

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """See `Client`."""
        return LeaveWatch(on_leave, self._connection, self._watches)

    def _examine(self, event: bytes) -> None:
        fields = read_event(event).fields
        if fields is None:
            return
        self._output.note(fields)
        response = fields.get("response")
        if fields.get("type") in TERMINAL_STATUSES and isinstance(response, dict):
            output = response.get("output")
            self._on_response(response, self._output.merged(output if isinstance(output, list) else []))

    def _send(self, messages: list[bytes]) -> bool:
        if messages and not self.bytes_out:
            self.first_byte = time.perf_counter()
        self.bytes_out += sum(map(len, messages))
        return self._connection.send(messages)


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
