"""The client of a request that runs in the background, for the relay: it takes everything, and nobody reads it.

The true client was answered before. What is worth reading goes to the store by way of the turn. An answer that is an
error says why the response has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.http.client import Client, Watch
from gateway.protocol.lenient_json import parse_object
from gateway.proxy.collecting_client import CollectingClient
from gateway.proxy.discarding_client import NullWatch
from gateway.state.background_turn import BackgroundTurn, Problem
from gateway.types import Headers

_ERROR: Final = 400


class BackgroundClient(CollectingClient):
    """See `http.client.Client`. The request's head is that of the client that asked."""

    __slots__ = ("_turn",)

    def __init__(self, asked: Client, turn: BackgroundTurn) -> None:
        super().__init__(asked)
        self._turn = turn

    def keep(self, data: bytes) -> None:
        """See `CollectingClient`. The turn keeps what matters."""

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See `Client`."""
        await super().answer(status, headers, body)
        if status >= _ERROR:
            self._turn.problem = _problem(status, body)

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """See `Client`. A background response is ended by its runner: no client can leave."""
        del on_leave
        return NullWatch()


def _problem(status: int, body: bytes) -> Problem:
    """Returns why the response failed: the provider's own error where it has one."""
    error = (parse_object(body) or {}).get("error")
    told = error if isinstance(error, dict) else {}
    code, message = told.get("code"), told.get("message")
    return Problem(
        code if isinstance(code, str) and code else "server_error",
        message if isinstance(message, str) and message else f"The provider answered {status}.",
    )
