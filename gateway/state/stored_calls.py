"""Answers calls for stored responses without the provider: GET, DELETE, input_items, cancel.

    answer = await stored.serve(operation, key, response_id, query)    None: the response is not stored here

These calls cost nothing and count at no limit, because programs poll.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.protocol.response_events import RUNNING
from gateway.state.background import Background
from gateway.state.chain import last_compaction
from gateway.state.following import DONE, follow
from gateway.state.items import Item, shown
from gateway.state.large_work import dump_whole, is_long
from gateway.state.lists import page
from gateway.state.past import Pasts
from gateway.state.records import StoredResponse
from gateway.state.replay import events_after
from gateway.state.responses import ResponseStore
from gateway.state.snapshot import cancelled_response
from gateway.types import Headers

_JSON = b"application/json"
_SSE = b"text/event-stream"
_POLL_AFTER: Final = ((b"openai-poll-after-ms", b"1000"),)
"""The interval for polling, which the SDKs' helpers respect."""
_NUMBER: Final = re.compile(r"-?[0-9]{1,15}")


class LocalAnswer(NamedTuple):
    """A complete answer that the gateway gives itself."""

    content_type: bytes
    body: bytes
    extra_headers: tuple[tuple[bytes, bytes], ...] = ()

    def head(self, request_id: str) -> Headers:
        """Returns the answer's headers."""
        return [
            (b"content-type", self.content_type),
            (b"content-length", b"%d" % len(self.body)),
            (b"x-request-id", request_id.encode()),
            *self.extra_headers,
        ]


class LocalStream(NamedTuple):
    """An event stream that the gateway makes itself."""

    events: AsyncIterator[bytes]

    @staticmethod
    def head(request_id: str) -> Headers:
        """Returns the answer's headers."""
        return [
            (b"content-type", _SSE),
            (b"x-request-id", request_id.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]


class StoredCalls:
    """Serves stored responses. Raises GatewayError."""

    def __init__(self, responses: ResponseStore, background: Background, pasts: Pasts) -> None:
        self._responses = responses
        self._pasts = pasts
        self._background = background

    async def serve(
        self, operation: str, key: ApiKey, response_id: str, query: bytes
    ) -> LocalAnswer | LocalStream | None:
        """Answers one of the operations that name a response. Returns None if the response is not stored here."""
        record = await self._responses.get(key, response_id)
        if record is None:
            return None
        run, is_large = self._responses.large_work.run, is_long(record.response)
        if operation == "retrieve":
            return await run(partial(self._retrieve, key, record, query), is_long=is_large)
        if operation == "delete":
            await self._background.delete(key.team_id, response_id)
            await self._responses.delete(key.team_id, response_id)
            return _json({"id": response_id, "object": "response", "deleted": True})
        if operation == "cancel":
            return await self._cancel(key, record)
        if operation == "input_items":
            items = await self._input(key, record)
            return await run(lambda: _json(page(items, query)), is_long=is_long(*items))
        return None

    def _retrieve(self, key: ApiKey, record: StoredResponse, query: bytes) -> LocalAnswer | LocalStream:
        params = {name: values[-1] for name, values in parse_qs(query.decode("latin-1")).items()}
        if params.get("stream") not in ("true", "True", "1"):
            return response_answer(record.response)
        after = params.get("starting_after", "-1")
        if _NUMBER.fullmatch(after) is None:
            raise GatewayError("invalid_item", "'starting_after' must be a sequence number.", param="starting_after")
        number = max(-1, int(after))
        if record.response.get("background") is True or record.status in RUNNING:
            return LocalStream(follow(self._background, key.team_id, record.response_id, number))
        return LocalAnswer(_SSE, b"".join([*events_after(record.response, number), DONE]))

    async def _cancel(self, key: ApiKey, record: StoredResponse) -> LocalAnswer:
        if record.response.get("background") is not True:
            message = f"The response {record.response_id!r} does not run in the background: it cannot be cancelled."
            raise GatewayError("invalid_item", message, param="response_id")
        if record.status not in RUNNING:
            return _json(record.response)
        cancelled = cancelled_response(record.response)
        if await self._background.cancel(key.team_id, record, cancelled):
            return _json(cancelled)
        ended = await self._responses.read(key.team_id, record.response_id)  # it had ended just before
        return _json(cancelled if ended is None else ended.response)

    async def _input(self, key: ApiKey, record: StoredResponse) -> list[Item]:
        """Returns the input that a response was made from: its own and that of the turns it continues.

        It begins at the latest compaction, which replaced everything before it.
        """
        ancestors = await self._responses.ancestors(key, record)
        placed = [_placed(turn.response_id, [*turn.input, *turn.output]) for turn in ancestors]
        placed.append(_placed(record.response_id, record.input))
        root = [*ancestors, record][0]
        compaction = None if root is record else last_compaction(root.output)
        if compaction is None:
            placed.insert(0, await self._context(key.team_id, root))
        else:
            placed[0] = placed[0][len(root.input) + compaction :]
        items = [pair for turn in placed for pair in turn]
        return shown([item for _, item in items], [place for place, _ in items])

    async def _context(self, team_id: str, record: StoredResponse) -> list[tuple[str, Item]]:
        """Returns the items of its conversation that precede a response, if they still exist."""
        try:
            link = await self._pasts.context(team_id, record)
        except GatewayError as error:
            if error.code != "conversation_not_found":
                raise
            link = None
        items = () if link is None else link.listed()
        return [(f"{item['id']}/{record.response_id}", item) for item in items]


def _placed(response_id: str, items: Sequence[Item]) -> list[tuple[str, Item]]:
    """Returns the items of a turn, each with the name of its place, which never changes."""
    return [(f"{response_id}/{at}", item) for at, item in enumerate(items)]


def response_answer(response: dict[str, Any]) -> LocalAnswer:
    """Returns a response as JSON. If it still runs, a header tells clients when to poll again."""
    return _json(response)._replace(extra_headers=_POLL_AFTER if response.get("status") in RUNNING else ())


def _json(value: dict[str, Any]) -> LocalAnswer:
    return LocalAnswer(_JSON, dump_whole(value))
