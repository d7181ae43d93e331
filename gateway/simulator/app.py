"""The simulator as an ASGI application.

| route                                  | answers                                                         |
|----------------------------------------|-----------------------------------------------------------------|
| POST /v1/responses                     | a response, plain or streamed                                   |
| POST /v1/responses/compact             | the conversation as a compaction item                           |
| POST /v1/responses/input_tokens        | how many tokens an input has                                    |
| GET /v1/responses with an upgrade      | WebSocket mode (websocket.py)                                   |
| GET, DELETE /v1/responses/{id}         | a stored response (`?stream=true&starting_after=n` its events)  |
| POST /v1/responses/{id}/cancel         | stops a response that was made with `background`                |
| GET /v1/responses/{id}/input_items     | its input (`limit`, `order`, `after`)                           |
| POST /v1/chat/completions, completions | the same as a chat completion, as a completion                  |
| POST /v1/messages (and count_tokens)   | the same as a message of Anthropic's API                        |
| POST /v1/embeddings, moderations       | vectors, verdicts                                               |
| POST /v1/rerank                        | an order                                                        |
| POST /v1/images/..., /v1/audio/...     | pictures of one colour, silence, transcriptions                 |
| GET /v1/models, /v1/models/{id}        | one model for each behaviour; any name is known                 |
| GET /_sim/requests?limit=n             | the last requests as received (record.py), without a key        |

Everything under /v1 needs a bearer token, or a key in `x-api-key` or `api-key`; any value is accepted. All state is in
the application object. With `post_only` nothing is kept, and the routes below /v1/responses do not exist
(stateless.py).
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.simulator import chat, media, messages, vectors
from gateway.simulator.answer import send_error, send_misbehaviour, send_plain, send_replay, send_stream
from gateway.simulator.behaviours import ROWS
from gateway.simulator.events import response_object
from gateway.simulator.http_exchange import ClientDisconnected, HttpExchange
from gateway.simulator.plan import Plan, make_plan, usage_of
from gateway.simulator.record import MAX_REQUESTS, MAX_RESPONSES, Received, Recent, Stored
from gateway.simulator.request import JsonObject, ProviderError, Request, input_items, parse_object, parse_request
from gateway.simulator.stateless import check_stateless
from gateway.simulator.text import read_prompt
from gateway.simulator.websocket import WebSocketMode

Handler = Callable[[HttpExchange, bytes], Awaitable[None]]

MAX_BODY_BYTES: Final = 64 * 1024 * 1024
_ORDINARY: Final = ("openai/gpt-5.2", "o4-mini", "text-embedding-3-small", "gpt-image-1", "whisper-1")
_MODELS: Final = (*_ORDINARY, *(row.model for row in ROWS))
_MODELS_CREATED_AT: Final = 1_777_000_000
_MS_PER_S: Final = 1000
_PAGE: Final = 20
_MAX_PAGE: Final = 100


def build_simulator(*, max_body_bytes: int = MAX_BODY_BYTES, post_only: bool = False) -> ASGIApp:
    """A new simulator with nothing in its memory; needs no lifespan. A longer body than allowed is a 413.

    `post_only`: of the Responses API it offers POST /v1/responses alone, keeps nothing, and refuses what needs state.
    """
    simulator = _Simulator(max_body_bytes, post_only=post_only)
    table: tuple[tuple[str, str, Handler], ...] = (
        ("POST", "/v1/responses", simulator.create),
        ("POST", "/v1/responses/compact", simulator.compact),
        ("POST", "/v1/responses/input_tokens", simulator.input_tokens),
        ("GET", "/v1/responses/{id}", simulator.retrieve),
        ("DELETE", "/v1/responses/{id}", simulator.delete),
        ("POST", "/v1/responses/{id}/cancel", simulator.cancel),
        ("GET", "/v1/responses/{id}/input_items", simulator.input_items),
        ("POST", "/v1/chat/completions", chat.chat_completions),
        ("POST", "/v1/completions", chat.completions),
        ("POST", "/v1/messages", messages.messages),
        ("POST", "/v1/messages/count_tokens", messages.count_tokens),
        ("POST", "/v1/embeddings", vectors.embeddings),
        ("POST", "/v1/moderations", vectors.moderations),
        ("POST", "/v1/rerank", vectors.rerank),
        ("POST", "/v1/images/generations", media.image_generations),
        ("POST", "/v1/images/edits", media.image_edits),
        ("POST", "/v1/images/variations", media.image_variations),
        ("POST", "/v1/audio/speech", media.speech),
        ("POST", "/v1/audio/transcriptions", media.transcriptions),
        ("POST", "/v1/audio/translations", media.transcriptions),
        ("GET", "/v1/models", simulator.models),
        ("GET", "/v1/models/{id:path}", simulator.model),
    )
    if post_only:
        table = tuple(row for row in table if not row[1].startswith("/v1/responses/"))
    routes: list[BaseRoute] = [
        Route("/_sim/requests", _Endpoint(simulator, simulator.requests, is_public=True), methods=["GET"])
    ]
    routes += [Route(path, _Endpoint(simulator, handler), methods=[method]) for method, path, handler in table]
    sockets = WebSocketMode(simulator, check_key, offered=not post_only)
    routes.append(WebSocketRoute("/v1/responses", sockets.serve))
    routes.append(Route("/{path:path}", _Endpoint(simulator, simulator.unknown)))
    return Starlette(routes=routes)


class _Endpoint:
    """One route: reads the request, checks the key, calls the handler, and records the exchange."""

    def __init__(self, simulator: _Simulator, handler: Handler, *, is_public: bool = False) -> None:
        self._simulator = simulator
        self._handler = handler
        self._is_public = is_public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = scope["query_string"].decode("latin-1")
        record = Received(scope["method"], scope["path"], query, list(scope["headers"]))
        exchange = HttpExchange(scope, receive, send, record, self._simulator.max_body_bytes)
        try:
            try:
                body = await exchange.read_body()
            finally:
                if not self._is_public:
                    self._simulator.remember(record)
            if not self._is_public:
                check_key(exchange.header)
            await self._handler(exchange, body)
        except ProviderError as error:
            await send_error(exchange, error)
        except ClientDisconnected:
            pass  # the client has left
        finally:
            exchange.close()


def check_key(header: Callable[[bytes], bytes | None]) -> None:
    """Accepts any key in the headers of a request. Raises `ProviderError` if there is none."""
    if header(b"x-api-key") or header(b"api-key"):
        return
    scheme, _, token = (header(b"authorization") or b"").partition(b" ")
    if scheme.lower() != b"bearer" or not token.strip():
        message = "A bearer token is required (any will do)"
        raise ProviderError("invalid_api_key", message, status=401, type_="authentication_error")


def _query(exchange: HttpExchange, name: str, default: str = "") -> str:
    values = parse_qs(exchange.scope["query_string"].decode("latin-1")).get(name)
    return values[-1] if values else default


def _query_count(exchange: HttpExchange, name: str, default: int, high: int) -> int:
    text = _query(exchange, name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(high)) and int(text) <= high):
        raise ProviderError("invalid_field", f"{name} must be a whole number from 0 to {high}", param=name)
    return int(text)


def _not_found(message: str, code: str = "response_not_found") -> ProviderError:
    return ProviderError(code, message, status=404, type_="not_found")


def _model_object(model: str) -> JsonObject:
    owner = model.partition("/")[0] if "/" in model else "openai"
    return {"id": model, "object": "model", "created": _MODELS_CREATED_AT, "owned_by": owner}


class _Simulator:
    """The handlers. Mutable: the last requests, the last responses."""

    def __init__(self, max_body_bytes: int, *, post_only: bool) -> None:
        self._post_only = post_only
        self.max_body_bytes = max_body_bytes
        self._received: Recent[Received] = Recent(MAX_REQUESTS)
        self._responses: Recent[Stored] = Recent(MAX_RESPONSES)
        self._count = 0

    def remember(self, record: Received) -> None:
        """See `websocket.Memory`."""
        self._count += 1
        self._received.add(str(self._count), record, len(record.body))

    async def create(self, exchange: HttpExchange, body: bytes) -> None:
        request = parse_request(body)
        if self._post_only:
            check_stateless(request.fields, request.items)
            request = replace(request, store=False)
        if await send_misbehaviour(exchange, request.behaviour, request.model):
            return
        plan = make_plan(request, self.earlier_tokens(request, {}))
        stored = Stored(plan)
        if request.background:
            stored.ready_at = _ready_at(plan)
        if request.store:
            self._responses.add(plan.id, stored, len(body))
        if request.stream:
            await send_stream(exchange, plan)
        elif request.background and stored.status != plan.status:
            await send_plain(exchange, plan, stored.status)
        else:
            await send_plain(exchange, plan)
        if exchange.left and not request.background:
            stored.cancelled = True

    def keep(self, plan: Plan, size_bytes: int) -> Stored:
        """See `websocket.Memory`."""
        stored = Stored(plan)
        self._responses.add(plan.id, stored, size_bytes)
        return stored

    def earlier_tokens(self, request: Request, remembered: Mapping[str, Stored]) -> int:
        """See `websocket.Memory`."""
        previous_id = request.fields.get("previous_response_id")
        if previous_id is None:
            return 0
        stored = next((one for one in remembered.values() if one.plan.id == previous_id), None)
        stored = stored or self._responses.get(previous_id)
        if stored is None:
            message = f"The previous response {previous_id} is not known here"
            raise ProviderError("previous_response_not_found", message, param="previous_response_id")
        return int((stored.plan.usage or {}).get("total_tokens", 0))

    async def compact(self, exchange: HttpExchange, body: bytes) -> None:
        fields = parse_object(body)
        if not isinstance(fields.get("model"), str) or not fields["model"]:
            raise ProviderError("missing_field", "model is required", param="model")
        items = () if fields.get("input") is None else input_items(fields)
        prompt = read_prompt(items, fields)
        part = {"type": "input_text", "text": prompt.user_text}
        kept = {"type": "message", "id": _new_id("msg"), "status": "completed", "role": "user", "content": [part]}
        sealed = f"sim.{len(items)}.{prompt.input_tokens}"
        compaction = {"type": "compaction", "id": _new_id("cmp"), "encrypted_content": sealed}
        answer = {
            "id": _new_id("resp"),
            "object": "response.compaction",
            "created_at": int(time.time()),
            "output": [kept, compaction] if prompt.user_text else [compaction],
            "usage": usage_of(prompt.input_tokens, 1),
        }
        await exchange.respond_json(answer)

    async def input_tokens(self, exchange: HttpExchange, body: bytes) -> None:
        fields = parse_object(body)
        count = read_prompt(input_items(fields), fields).input_tokens
        await exchange.respond_json({"object": "response.input_tokens", "input_tokens": count})

    async def retrieve(self, exchange: HttpExchange, _: bytes) -> None:
        stored = self._stored(exchange)
        if _query(exchange, "stream") == "true":
            after = _query_count(exchange, "starting_after", 0, 2**31) if _query(exchange, "starting_after") else -1
            await send_replay(exchange, stored.plan, after)
        else:
            await exchange.respond_json(_snapshot(stored))

    async def delete(self, exchange: HttpExchange, _: bytes) -> None:
        identity = self._stored(exchange).plan.id
        self._responses.remove(identity)
        await exchange.respond_json({"id": identity, "object": "response", "deleted": True})

    async def cancel(self, exchange: HttpExchange, _: bytes) -> None:
        stored = self._stored(exchange)
        if not stored.plan.request.background:
            raise ProviderError("invalid_field", "Only a background response can be cancelled", param="id")
        stored.cancelled = stored.status in ("in_progress", "cancelled")
        await exchange.respond_json(_snapshot(stored))

    async def input_items(self, exchange: HttpExchange, _: bytes) -> None:
        plan = self._stored(exchange).plan
        limit = _query_count(exchange, "limit", _PAGE, _MAX_PAGE)
        digits = plan.id.partition("_")[2]
        items = [{**item, "id": item.get("id") or f"in_{digits}_{n}"} for n, item in enumerate(plan.request.items)]
        if _query(exchange, "order", "desc") == "desc":
            items.reverse()
        after = _query(exchange, "after")
        if after:
            places = [place for place, item in enumerate(items) if item["id"] == after]
            if not places:
                raise ProviderError("invalid_field", f"after: no item {after}", param="after")
            items = items[places[0] + 1 :]
        page = items[:limit]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        await exchange.respond_json({"object": "list", "data": page, **ends, "has_more": len(items) > limit})

    def _stored(self, exchange: HttpExchange) -> Stored:
        identity = exchange.scope["path_params"]["id"]
        stored = self._responses.get(identity)
        if stored is None:
            raise _not_found(f"No response {identity} is known here")
        return stored

    async def models(self, exchange: HttpExchange, _: bytes) -> None:
        await exchange.respond_json({"object": "list", "data": [_model_object(model) for model in _MODELS]})

    async def model(self, exchange: HttpExchange, _: bytes) -> None:
        await exchange.respond_json(_model_object(exchange.scope["path_params"]["id"]))

    async def requests(self, exchange: HttpExchange, _: bytes) -> None:
        limit = _query_count(exchange, "limit", _PAGE, MAX_REQUESTS)
        await exchange.respond_json({"requests": [record.report() for record in self._received.newest(limit)]})

    async def unknown(self, exchange: HttpExchange, _: bytes) -> None:
        message = f"{exchange.scope['method']} {exchange.scope['path']} is not served here"
        raise _not_found(message, "unknown_url")


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _ready_at(plan: Plan) -> float:
    behaviour = plan.request.behaviour
    if behaviour.stall_after is not None:
        return math.inf
    return time.monotonic() + behaviour.token_delay_ms * plan.token_count / _MS_PER_S


def _snapshot(stored: Stored) -> JsonObject:
    return response_object(stored.plan, stored.status)
