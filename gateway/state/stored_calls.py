"""Answers calls about stored responses without the provider: GET, DELETE, input_items, cancel.

    answer = await stored.serve(operation, key, response_id, query)    None: the response is not stored here

These calls cost nothing and count against no limit, because programs poll.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qs

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.protocol.lenient_json import dumps
from gateway.state.items import Item, shown
from gateway.state.lists import page
from gateway.state.records import StoredResponse
from gateway.state.replay import events
from gateway.state.responses import ResponseStore
from gateway.types import Headers

_JSON = b"application/json"
_SSE = b"text/event-stream"


class LocalAnswer(NamedTuple):
    """A complete answer that the gateway gives itself."""

    content_type: bytes
    body: bytes

    def head(self, request_id: str) -> Headers:
        """Returns the answer's headers."""
        return [
            (b"content-type", self.content_type),
            (b"content-length", b"%d" % len(self.body)),
            (b"x-request-id", request_id.encode()),
        ]


class StoredCalls:
    """Serves stored responses. Raises GatewayError."""

    def __init__(self, responses: ResponseStore) -> None:
        self._responses = responses

    async def serve(self, operation: str, key: ApiKey, response_id: str, query: bytes) -> LocalAnswer | None:
        """Answers one of the operations that name a response. Returns None if the response is not stored here."""
        record = await self._responses.get(key, response_id)
        if record is None:
            return None
        if operation == "retrieve":
            return _retrieve(record, query)
        if operation == "delete":
            await self._responses.delete(key.team_id, response_id)
            return _json({"id": response_id, "object": "response", "deleted": True})
        if operation == "cancel":
            return _cancel(record)
        if operation == "input_items":
            return _json(page(await self._input(key, record), query))
        return None

    async def _input(self, key: ApiKey, record: StoredResponse) -> list[Item]:
        """Returns the input that a response was made from: its own and that of the turns it continues."""
        items: list[Item] = []
        for link in await self._responses.ancestors(key, record):
            items += [*link.input, *link.output]
        return shown([*items, *record.input])


def _retrieve(record: StoredResponse, query: bytes) -> LocalAnswer:
    asked = {name: values[-1] for name, values in parse_qs(query.decode("latin-1")).items()}
    if asked.get("stream") not in ("true", "True", "1"):
        return _json(record.response)
    after = asked.get("starting_after", "-1")
    if not after.lstrip("-").isdigit():
        raise GatewayError("invalid_item", "'starting_after' must be a sequence number.", param="starting_after")
    made = events(record.response)
    return LocalAnswer(_SSE, b"".join(made[int(after) + 1 :]))


def _cancel(record: StoredResponse) -> LocalAnswer:
    if record.response.get("background") is not True:
        message = f"The response {record.response_id!r} does not run in the background: it cannot be cancelled."
        raise GatewayError("invalid_item", message, param="response_id")
    return _json(record.response)


def _json(value: dict[str, Any]) -> LocalAnswer:
    return LocalAnswer(_JSON, dumps(value))
