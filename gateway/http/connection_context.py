"""What the connections of one worker share: the application that they serve, and their common bounds."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from gateway.errors import GatewayError
from gateway.http.connection_budget import ConnectionBudget
from gateway.http.head import STATUS_LINES, lines
from gateway.http.request_cycle import RequestCycle
from gateway.types import Headers, Receive, Scope, Send


class Application(Protocol):
    """What a connection needs of the application that it serves.

    `leaving` says that the gateway is stopping. Each answer is then the last one on its connection, so that clients
    connect to another gateway for their next request.
    """

    leaving: bool

    def dispatch(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serves one request."""

    def refuse_head(self, error: GatewayError, scope: Scope | None = None) -> tuple[int, Headers, bytes]:
        """Returns status, headers and body of the answer to a request that reaches no route.

        `scope` is that of the request, if its head could be read.
        """


class ConnectionContext:
    """The context of one worker. Mutable: the rendered form of the server's own headers."""

    def __init__(self, application: Application, budget: ConnectionBudget) -> None:
        self.application = application
        self.budget = budget
        self.limits = budget.limits
        self._headers: list[tuple[bytes, bytes]] = []
        self._lines = b""

    def lines(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Returns uvicorn's own headers as header lines. Uvicorn makes a new list of them each second."""
        if headers is not self._headers:
            self._headers, self._lines = headers, lines(headers)
        return self._lines

    def refusal(
        self, error: GatewayError, headers: list[tuple[bytes, bytes]], cycle: RequestCycle | None = None
    ) -> bytes:
        """Returns a whole answer to a request that reaches no route. The request is counted, and its connection closes.

        `cycle` is the request whose head came last. If that one has been answered, the refusal is for what followed it.
        """
        scope = None if cycle is None or cycle.response_complete else cycle.scope
        status, own, body = self.application.refuse_head(error, scope)
        fields = lines([field for field in own if field[0] != b"connection"])
        return b"".join((STATUS_LINES[status], self.lines(headers), fields, b"connection: close\r\n\r\n", body))
