"""One turn of a WebSocket: what it continues, and its path through the request handler.

| the turn continues            | on a route with state "gateway"  | on any other route                 |
|-------------------------------|----------------------------------|------------------------------------|
| a remembered response         | resolved like a stored response  | its items precede the input        |
| a stored response             | read from the store              | its id is passed on, as by POST    |
| a forgotten or evicted one    | `previous_response_not_found`    | its id is passed on, as by POST    |

A response is remembered if nobody stores it: the turn or its answer has `store: false`, or its route has no state.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from gateway.concurrency.off_loop import LONG_BYTES, OffLoop
from gateway.errors import GatewayError
from gateway.http.websocket_connection import WebSocketConnection
from gateway.identity.api_keys import ApiKey
from gateway.protocol.lenient_json import dumps
from gateway.protocol.operations import CREATE, Target, find
from gateway.proxy.admission import Routed
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.proxy.stored_answers import LocalResponder
from gateway.routing.router import RouteRule
from gateway.state.chain import Link, resolve
from gateway.state.items import Item, as_items, upstream_items
from gateway.state.past import CONVERSATION, PREVIOUS, Recalled
from gateway.state.turn import Turn, new_response_id
from gateway.state.turns import Turns, TurnSource
from gateway.types import Body, Scope
from gateway.upstream.websocket_pool import ContinuedResponse, SessionSockets, TurnTransport
from gateway.upstream.websocket_steering import SteeringTransport
from gateway.websocket.memory import LaneMemory, Remembered
from gateway.websocket.messages import Message, check_switches, input_of, request_body
from gateway.websocket.turn_client import LeaveWatch, TurnClient
from gateway.websocket.warm_up import events, warm_up_response

_CONTINUABLE: Final = frozenset({"completed", "incomplete"})
_STATELESS: Final = "none"


class TurnHandler(Protocol):
    """The part of the request handler that a turn uses. `proxy.handler.RequestHandler` implements it."""

    turns: Turns | None

    @property
    def snapshot(self) -> ConfigSnapshot:
        """The configuration that the next request runs on."""

    async def __call__(
        self,
        target: Target,
        client: TurnClient,
        turns: TurnSource | None = None,
        responder: LocalResponder | None = None,
        turn_transport: TurnTransport | SteeringTransport | None = None,
    ) -> None:
        """Serves one request."""


class Socket(Protocol):
    """The session of a turn."""

    connection: WebSocketConnection
    memory: LaneMemory
    scope: Scope
    upstreams: SessionSockets
    watches: set[LeaveWatch]


class SocketTurn:
    """One turn. `message` has begun it.

    State that changes: the `rule` of its route and its input, once they are known; `transport`, which sends it over a
    WebSocket of an upstream; its client; whether its key was refused; `ended`, which is set at its end.
    """

    def __init__(self, socket: Socket, message: Message, handler: TurnHandler) -> None:
        self.is_unauthorized = False
        self.ended = asyncio.Event()
        self.message = message
        self.transport: TurnTransport | SteeringTransport | None = None
        self.rule: RouteRule | None = None
        self._socket = socket
        self._handler = handler
        self._turn_client: TurnClient | None = None
        self._recalled: Remembered | None = None
        self._source: _RecallingTurns | None = None
        self._window: Sequence[Item] = ()

    async def run(self) -> str:
        """Runs the turn. Returns `answered`, `refused`, `warm_up`, or `left` if its client has left."""
        message = self.message
        body: Body | GatewayError
        try:
            body = await self._prepare()
        except GatewayError as error:
            body = error
        self._turn_client = client = self._client(body)
        responder = None if message.generates else self._warm_up
        target = find(CREATE.method, CREATE.route)
        if target is None:
            raise RuntimeError("the operation of a turn is in the table")
        try:
            await self._handler(target, client, self._source, responder, self.transport)
        finally:
            self.ended.set()
        self.is_unauthorized = client.is_unauthorized
        previous = message.previous_response_id
        if client.failed and previous is not None:
            self._forget(previous)
        if not client.ended:
            return "left"
        return "refused" if client.failed else "warm_up" if responder is not None else "answered"

    @property
    def upstream_response_id(self) -> str:
        """The id of its response, if it was sent by WebSocket and the id is known, or else ""."""
        return "" if self.transport is None or self.transport.turn is None else self.transport.turn.response_id

    @property
    def may_be_steered(self) -> bool:
        """Whether the turn was sent by WebSocket to an upstream that keeps its state."""
        return self.transport is not None and self.transport.turn is not None and self._source is None

    @property
    def is_steerable(self) -> bool:
        """Whether the turn may be steered and has not ended."""
        turn = None if self.transport is None else self.transport.turn
        return self.may_be_steered and turn is not None and not turn.is_over

    @property
    def size(self) -> int:
        """The approximate size of its input and of its output so far, in bytes."""
        output_bytes = 0 if self._turn_client is None else self._turn_client.bytes_out
        return len(self.message.text) + (0 if self._recalled is None else self._recalled.size) + output_bytes

    @property
    def off_loop(self) -> OffLoop:
        """The worker's threads."""
        return self._handler.snapshot.off_loop

    def window(self) -> tuple[Sequence[Item], str | None]:
        """Returns the whole input as far as it is known here, and the stored response that precedes it, or None."""
        if self._recalled is not None:
            return self._window, self._recalled.base
        return as_items(input_of(self.message)), self.message.previous_response_id

    def output_so_far(self) -> Sequence[Item]:
        """Returns the complete output items so far."""
        return [] if self._turn_client is None else self._turn_client.output_so_far()

    def _client(self, body: Body | GatewayError) -> TurnClient:
        scope = self._socket.scope
        return TurnClient({**scope}, dict(scope["headers"]), body, self.message.lane, self._socket, self, self.off_loop)

    def _forget(self, previous: str) -> None:
        """Evicts the continued response, because the turn has failed."""
        self._socket.memory.evict(self.message.lane, previous)

    async def _prepare(self) -> Body:
        """Prepares the turn, and returns the body of its request. Raises GatewayError."""
        message, snapshot = self.message, self._handler.snapshot
        check_switches(message)
        model, previous = message.fields.get("model"), message.previous_response_id
        candidates: Sequence[str] = ()
        if isinstance(model, str):
            with contextlib.suppress(GatewayError):  # the handler raises it again
                route = snapshot.router.resolve(model)
                self.rule, candidates = route.rule, route.candidates
        rule = self.rule
        if rule is not None and not rule.websocket:
            raise GatewayError("websocket_unsupported", f"The model {model!r} is served by POST.")
        if previous is not None:
            self._recalled = self._socket.memory.recall(message.lane, previous)
        turns = self._handler.turns
        if rule is not None and rule.state == "gateway" and turns is not None:
            self._source = _RecallingTurns(turns, self._recalled)
        if any(snapshot.upstreams[name].sockets for name in candidates):
            self.transport = TurnTransport(
                self._socket.upstreams, message.lane, self.off_loop, self._continued_response()
            )
        work: Callable[[], Body] = self._body
        if self._source is None and self._recalled is not None:
            work = partial(self._body_with_memory, self._recalled, rule)
        return await self.off_loop.run(work) if self.size > LONG_BYTES else work()

    def _continued_response(self) -> ContinuedResponse | None:
        """Returns the continued response, for a connection on which its provider remembers it."""
        recalled, place = self._recalled, self.message.places.get("input")
        keeps = self.rule is not None and self.rule.state == "upstream"
        if recalled is None or place is None or not keeps:
            return None
        return ContinuedResponse(recalled.response_id, self.message.text[place[0] : place[1]])

    def _body(self) -> Body:
        message = self.message
        needs_input = message.generates or "input" in message.places
        return request_body(message, {} if needs_input else {"input": b"[]"})  # a warm-up may have only instructions

    def _body_with_memory(self, recalled: Remembered, rule: RouteRule | None) -> Body:
        """Returns the body with the remembered items before its input. May run in any thread."""
        self._window = resolve([recalled.link()], as_items(input_of(self.message)))
        sent = upstream_items(self._window, reasoning_ids=rule is not None and rule.replay_ids == "reasoning")
        base = None if recalled.base is None else dumps(recalled.base)
        return request_body(self.message, {"previous_response_id": base, "input": dumps(sent)})

    def _warm_up(self, routed: Routed) -> bytes:
        """Returns the answer to a warm-up. It is remembered, so that it can be continued like a response."""
        response = warm_up_response(new_response_id(), routed.request.model, self.message.fields)
        entry = self._entry(response["id"], [])
        if entry is not None:
            self.remember(entry())
        return events(response)

    def on_response_end(self, response: dict[str, Any], output: Sequence[Item]) -> Callable[[], Remembered] | None:
        """See `turn_client.Answered`. The response is remembered unless it is stored."""
        if not self.message.generates or response.get("status") not in _CONTINUABLE:
            return None
        may_be_stored = self.message.fields.get("store") is not False
        stores_nothing = self.rule is not None and self.rule.state == _STATELESS
        response_id = response.get("id")
        if response.get("store", may_be_stored) is not False and not stores_nothing:
            self._socket.memory.forget(self.message.lane)
        elif isinstance(response_id, str):
            return self._entry(response_id, output)
        return None

    def remember(self, remembered: Remembered) -> None:
        """See `turn_client.Answered`."""
        if self._socket.connection.is_open:  # else its memory has been cleared
            self._socket.memory.remember(self.message.lane, remembered)

    def _entry(self, response_id: str, output: Sequence[Item]) -> Callable[[], Remembered] | None:
        """Returns what makes the entry of a response in the lane's memory, in any thread; None if there is none."""
        source = self._source
        in_conversation = self.message.fields.get(CONVERSATION) is not None
        if source.in_provider_conversation if source is not None else in_conversation:
            self._socket.memory.forget(self.message.lane)  # earlier turns are in a conversation of the provider
            return None

        def entry() -> Remembered:
            window, base = self.window() if source is None else (source.window, source.base)
            return Remembered.of(response_id, resolve([Link(response_id, window, output)], []), base)

        return entry


class _RecallingTurns:
    """Begins a turn that continues a remembered response.

    State that changes: `window`, the whole input as far as it is known here; `base`, a response of the provider that
    precedes it; `in_provider_conversation`, whether a conversation of the provider precedes it.
    """

    def __init__(self, turns: Turns, recalled: Remembered | None) -> None:
        self.window: Sequence[Item] = ()
        self.base: str | None = None
        self.in_provider_conversation = False
        self._turns = turns
        self._recalled = recalled

    async def begin(self, key: ApiKey, body: Body, rule: RouteRule) -> Turn:
        """See `Turns.begin`."""
        turn = await self._turns.begin(key, body, rule, self._recall)
        self.window, base = turn.window, turn.base
        self.base = base.id if base is not None and base.member == PREVIOUS else None
        self.in_provider_conversation = base is not None and base.member == CONVERSATION
        return turn

    async def begin_compaction(self, key: ApiKey, body: Body, rule: RouteRule) -> Turn:
        """See `Turns.begin_compaction`. No message of a WebSocket asks for it."""
        return await self._turns.begin_compaction(key, body, rule)

    async def model_of(self, key: ApiKey, response_id: str) -> str | None:
        """See `Turns.model_of`."""
        return await self._turns.model_of(key, response_id)

    def _recall(self, response_id: str) -> Recalled | None:
        recalled = self._recalled
        if recalled is None or recalled.response_id != response_id:
            return None
        return Recalled(recalled.link(), recalled.base)
