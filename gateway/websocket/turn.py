"""One turn of a socket: what it goes on from, and its way through the request handler.

| the turn goes on from         | on a route of state "gateway"    | on any other route                 |
|-------------------------------|----------------------------------|------------------------------------|
| what the socket remembers     | resolved as a stored response is | its items are put before the input |
| a stored response             | read from the store              | its id passes, as by POST          |
| what was forgotten or evicted | `previous_response_not_found`    | its id passes, as by POST          |

A response is remembered where nobody stores it: it, or its answer, says `store: false`, or its route keeps no state.
"""

from __future__ import annotations

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
from gateway.proxy.stored_answers import AnswersHere
from gateway.routing.router import RouteRule
from gateway.state.chain import Link, resolve
from gateway.state.items import Item, as_items, upstream_items
from gateway.state.turn import Turn, new_response_id
from gateway.state.turns import Turns, TurnSource
from gateway.types import Body, Scope
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
        self, target: Target, client: TurnClient, turns: TurnSource | None = None, here: AnswersHere | None = None
    ) -> None:
        """Serves one request."""


class Socket(Protocol):
    """The socket of a turn."""

    connection: WebSocketConnection
    memory: LaneMemory
    scope: Scope
    watches: set[LeaveWatch]


class SocketTurn:
    """One turn. State that changes: what its input is, once that is known; whether its key was refused."""

    def __init__(self, socket: Socket, message: Message, handler: TurnHandler) -> None:
        self.is_unauthorized = False
        self._socket = socket
        self._message = message
        self._handler = handler
        self._rule: RouteRule | None = None
        self._recalled: Remembered | None = None
        self._source: _RecallingTurns | None = None
        self._window: Sequence[Item] = ()

    async def run(self) -> str:
        """Runs it. Returns `answered`, `refused`, `warm_up`, or `left`: its client has gone."""
        socket, message, lane = self._socket, self._message, self._message.lane
        body: Body | GatewayError
        try:
            body = await self._prepare()
        except GatewayError as error:
            body = error
        client = TurnClient(
            {**socket.scope}, dict(socket.scope["headers"]), body, lane, socket.connection, socket.watches, self._note
        )
        here = None if message.generates else self._warm_up
        target = find(CREATE.method, CREATE.route)
        if target is None:
            raise RuntimeError("the operation of a turn is in the table")
        await self._handler(target, client, self._source, here)
        self.is_unauthorized = client.is_unauthorized
        previous = message.previous_response_id
        if client.failed and previous is not None:
            socket.memory.evict(lane, previous)
        if not client.ended:
            return "left"
        return "refused" if client.failed else "warm_up" if here is not None else "answered"

    async def _prepare(self) -> Body:
        """The request's body. Raises GatewayError."""
        message, snapshot = self._message, self._handler.snapshot
        refuse_background(message)
        model, previous = message.fields.get("model"), message.previous_response_id
        if isinstance(model, str):
            try:
                self._rule = snapshot.router.resolve(model).rule
            except GatewayError:
                self._rule = None  # the handler says so
        rule = self._rule
        if rule is not None and not rule.websocket:
            raise GatewayError("websocket_unsupported", f"The model {model!r} is served by POST.")
        if previous is not None:
            self._recalled = self._socket.memory.recall(message.lane, previous)
        turns = self._handler.turns
        if rule is not None and rule.state == "gateway" and turns is not None:
            self._source = _RecallingTurns(turns, self._recalled)
        work: Callable[[], Body] = self._body
        if self._source is None and self._recalled is not None:
            work = partial(self._continued, self._recalled, rule)
        size = len(message.text) + (0 if self._recalled is None else self._recalled.size)
        return await snapshot.off_loop.run(work) if size > LONG_BYTES else work()

    def _body(self) -> Body:
        return request_body(self._message)

    def _continued(self, recalled: Remembered, rule: RouteRule | None) -> Body:
        """The body with what the socket remembers before its input. In any thread."""
        self._window = resolve([recalled.link()], as_items(input_of(self._message)))
        sent = upstream_items(self._window, reasoning_ids=rule is not None and rule.replay_ids == "reasoning")
        base = None if recalled.base is None else dumps(recalled.base)
        return request_body(self._message, {"previous_response_id": base, "input": dumps(sent)})

    def _warm_up(self, routed: Routed) -> bytes:
        """The answer to a warm-up; what it says is remembered, and continued like a response."""
        response = warm_up_response(new_response_id(), routed.request.model, self._message.fields)
        self._remember(response["id"], [])
        return events(response)

    def _note(self, response: dict[str, Any], output: Sequence[Item]) -> None:
        """The turn's response has ended, and its client is about to be told."""
        if not self._message.generates or response.get("status") not in _CONTINUABLE:
            return
        asked = self._message.fields.get("store") is not False
        stores_nothing = self._rule is not None and self._rule.state == _REMEMBERED_BY_NOBODY_ELSE
        response_id = response.get("id")
        if response.get("store", asked) is not False and not stores_nothing:
            self._socket.memory.forget(self._message.lane)
        elif isinstance(response_id, str):
            self._remember(response_id, output)

    def _remember(self, response_id: str, output: Sequence[Item]) -> None:
        source, recalled, base = self._source, self._recalled, None
        if source is not None:
            window = source.window
        elif recalled is not None:
            window, base = self._window, recalled.base
        else:
            window, base = as_items(input_of(self._message)), self._message.previous_response_id
        items = resolve([Link(response_id, window, output)], [])
        self._socket.memory.remember(self._message.lane, Remembered.of(response_id, items, base))


class _RecallingTurns:
    """Begins the turn with what its socket remembers. State that changes: `window`, its whole input."""

    def __init__(self, turns: Turns, recalled: Remembered | None) -> None:
        self.window: Sequence[Item] = ()
        self._turns = turns
        self._recalled = recalled

    async def begin(self, key: ApiKey, body: Body, rule: RouteRule) -> Turn:
        """See `Turns.begin`."""
        turn = await self._turns.begin(key, body, rule, self._recall)
        self.window = turn.window
        return turn

    async def begin_compaction(self, key: ApiKey, body: Body, rule: RouteRule) -> Turn:
        """See `Turns.begin_compaction`. No message of a socket asks for it."""
        return await self._turns.begin_compaction(key, body, rule)

    async def model_of(self, key: ApiKey, response_id: str) -> str | None:
        """See `Turns.model_of`."""
        return await self._turns.model_of(key, response_id)

    def _recall(self, response_id: str) -> Link | None:
        """What comes before a remembered response, where a provider stores that, cannot be read here."""
        recalled = self._recalled
        if recalled is None or recalled.response_id != response_id or recalled.base is not None:
            return None
        return recalled.link()
