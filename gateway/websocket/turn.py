"""One turn of a socket: what it goes on from, and its way through the request handler.

| the turn goes on from         | on a route of state "gateway"    | on any other route                 |
|-------------------------------|----------------------------------|------------------------------------|
| what the socket remembers     | resolved as a stored response is | its items are put before the input |
| a stored response             | read from the store              | its id passes, as by POST          |
| what was forgotten or evicted | `previous_response_not_found`    | its id passes, as by POST          |

A response is remembered where nobody stores it: it, or its answer, says `store: false`, or its route keeps no state.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from gateway.concurrency.off_loop import LONG_BYTES
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
from gateway.websocket.messages import Message, input_of, refuse_background, request_body
from gateway.websocket.turn_client import LeaveWatch, TurnClient
from gateway.websocket.warm_up import events, warm_up_response

_CONTINUABLE: Final = frozenset({"completed", "incomplete"})
_REMEMBERED_BY_NOBODY_ELSE: Final = "none"


class TurnHandler(Protocol):
    """The request handler, as a turn needs it. `proxy.handler.RequestHandler` is it."""

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
    """The socket of a turn."""

    connection: WebSocketConnection
    memory: LaneMemory
    scope: Scope
    upstreams: SessionSockets
    watches: set[LeaveWatch]


class SocketTurn:
    """One turn. `message`: what began it.

    State that changes: its route's `rule` and what its input is, once they are known; `transport`, how it goes
    over sockets of upstreams; its client; whether its key was refused; that it has `ended`.
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
        """Runs it. Returns `answered`, `refused`, `warm_up`, or `left`: its client has gone."""
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
        """The id of its response, where an upstream makes it over a socket; "" before that is known."""
        return "" if self.transport is None or self.transport.turn is None else self.transport.turn.response_id

    @property
    def may_be_steered(self) -> bool:
        """Whether it goes over a socket to its upstream, which keeps its state."""
        return self.transport is not None and self.transport.turn is not None and self._source is None

    @property
    def is_steerable(self) -> bool:
        """The same, and it has not ended."""
        turn = None if self.transport is None else self.transport.turn
        return self.may_be_steered and turn is not None and not turn.is_over

    @property
    def size(self) -> int:
        """About how many bytes its input and its output so far have."""
        said = 0 if self._turn_client is None else self._turn_client.bytes_out
        return len(self.message.text) + (0 if self._recalled is None else self._recalled.size) + said

    def window(self) -> tuple[Sequence[Item], str | None]:
        """Its whole input as it is known here, and the stored response that comes before that."""
        if self._recalled is not None:
            return self._window, self._recalled.base
        return as_items(input_of(self.message)), self.message.previous_response_id

    def output_so_far(self) -> Sequence[Item]:
        """The items of its output that are complete."""
        return [] if self._turn_client is None else self._turn_client.output_so_far()

    def _client(self, body: Body | GatewayError) -> TurnClient:
        socket = self._socket
        scope, fields = {**socket.scope}, dict(socket.scope["headers"])
        return TurnClient(scope, fields, body, self.message.lane, socket.connection, socket.watches, self.note)

    def _forget(self, previous: str) -> None:
        """It has failed: what it named cannot be continued again."""
        self._socket.memory.evict(self.message.lane, previous)

    async def _prepare(self) -> Body:
        """The request's body. Raises GatewayError."""
        message, snapshot = self.message, self._handler.snapshot
        refuse_background(message)
        model, previous = message.fields.get("model"), message.previous_response_id
        candidates: Sequence[str] = ()
        if isinstance(model, str):
            with contextlib.suppress(GatewayError):  # the handler says so
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
            self.transport = TurnTransport(self._socket.upstreams, message.lane, snapshot.off_loop, self._continuable())
        work: Callable[[], Body] = self._body
        if self._source is None and self._recalled is not None:
            work = partial(self._continued, self._recalled, rule)
        return await snapshot.off_loop.run(work) if self.size > LONG_BYTES else work()

    def _continuable(self) -> ContinuedResponse | None:
        """What it goes on from, for a socket whose provider remembers that."""
        recalled, place = self._recalled, self.message.places.get("input")
        keeps = self.rule is not None and self.rule.state == "upstream"
        if recalled is None or place is None or not keeps:
            return None
        return ContinuedResponse(recalled.response_id, self.message.text[place[0] : place[1]])

    def _body(self) -> Body:
        return request_body(self.message)

    def _continued(self, recalled: Remembered, rule: RouteRule | None) -> Body:
        """The body with what the socket remembers before its input. In any thread."""
        self._window = resolve([recalled.link()], as_items(input_of(self.message)))
        sent = upstream_items(self._window, reasoning_ids=rule is not None and rule.replay_ids == "reasoning")
        base = None if recalled.base is None else dumps(recalled.base)
        return request_body(self.message, {"previous_response_id": base, "input": dumps(sent)})

    def _warm_up(self, routed: Routed) -> bytes:
        """The answer to a warm-up; what it says is remembered, and continued like a response."""
        response = warm_up_response(new_response_id(), routed.request.model, self.message.fields)
        self._remember(response["id"], [])
        return events(response)

    def note(self, response: dict[str, Any], output: Sequence[Item]) -> None:
        """The turn's response has ended, and its client is about to be told."""
        if not self.message.generates or response.get("status") not in _CONTINUABLE:
            return
        asked = self.message.fields.get("store") is not False
        stores_nothing = self.rule is not None and self.rule.state == _REMEMBERED_BY_NOBODY_ELSE
        response_id = response.get("id")
        if response.get("store", asked) is not False and not stores_nothing:
            self._socket.memory.forget(self.message.lane)
        elif isinstance(response_id, str):
            self._remember(response_id, output)

    def _remember(self, response_id: str, output: Sequence[Item]) -> None:
        source, memory = self._source, self._socket.memory
        in_conversation = self.message.fields.get(CONVERSATION) is not None
        if source.is_the_providers if source is not None else in_conversation:
            memory.forget(self.message.lane)  # what came before is in a conversation that cannot be read here
            return
        window, base = self.window() if source is None else (source.window, source.base)
        items = resolve([Link(response_id, window, output)], [])
        memory.remember(self.message.lane, Remembered.of(response_id, items, base))


class _RecallingTurns:
    """Begins the turn with what its socket remembers.

    State that changes: `window`, its whole input as it is known here; `base`, a response of the provider's that comes
    before it; `is_the_providers`, that a conversation of the provider's does.
    """

    def __init__(self, turns: Turns, recalled: Remembered | None) -> None:
        self.window: Sequence[Item] = ()
        self.base: str | None = None
        self.is_the_providers = False
        self._turns = turns
        self._recalled = recalled

    async def begin(self, key: ApiKey, body: Body, rule: RouteRule) -> Turn:
        """See `Turns.begin`."""
        turn = await self._turns.begin(key, body, rule, self._recall)
        self.window, base = turn.window, turn.base
        self.base = base.id if base is not None and base.member == PREVIOUS else None
        self.is_the_providers = base is not None and base.member == CONVERSATION
        return turn

    async def begin_compaction(self, key: ApiKey, body: Body, rule: RouteRule) -> Turn:
        """See `Turns.begin_compaction`. No message of a socket asks for it."""
        return await self._turns.begin_compaction(key, body, rule)

    async def model_of(self, key: ApiKey, response_id: str) -> str | None:
        """See `Turns.model_of`."""
        return await self._turns.model_of(key, response_id)

    def _recall(self, response_id: str) -> Recalled | None:
        recalled = self._recalled
        if recalled is None or recalled.response_id != response_id:
            return None
        return Recalled(recalled.link(), recalled.base)
