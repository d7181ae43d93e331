"""The client of a background request, as the relay sees it. It discards what it is given.

The real client was answered before the request ran. The turn stores the response. If the answer is an error, the
response has failed for that reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.http.client import Client, Watch
from gateway.protocol.lenient_json import parse_object
from gateway.proxy.collecting_client import CollectingClient
from gateway.proxy.discarding_client import NullWatch
from gateway.state.background_turn import BackgroundTurn, Problem
from gateway.types import Body, Headers

_ERROR: Final = 400


class BackgroundClient(CollectingClient):
    """See `http.client.Client`. It has the request head of the real client."""

    __slots__ = ("_turn",)

    def __init__(self, client: Client, turn: BackgroundTurn) -> None:
        super().__init__(client)
        self._turn = turn

    def keep(self, data: Body) -> None:
        """See `CollectingClient`. The answer is discarded, because the turn stores it."""

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See `Client`."""
        await super().answer(status, headers, body)
        if status >= _ERROR:
            self._turn.problem = _problem(status, body)

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """See `Client`. The runner ends a background response, and no client can leave."""
        del on_leave
        return NullWatch()


def _problem(status: int, body: bytes) -> Problem:
    """Returns why the response failed: the provider's own error if it gave one."""
    error = (parse_object(body) or {}).get("error")
    error_fields = error if isinstance(error, dict) else {}
    code, message = error_fields.get("code"), error_fields.get("message")
    return Problem(
        code if isinstance(code, str) and code else "server_error",
        message if isinstance(message, str) and message else f"The provider answered {status}.",
    )
