"""What the connections of one worker have in common: the application that they serve, and what bounds them all."""

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

    `leaving`: it was told to stop, and each answer is the last of its connection: clients open the next one elsewhere.
    """

    leaving: bool

    def dispatch(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serves one request."""

    def refuse_head(self, error: GatewayError, scope: Scope | None = None) -> tuple[int, Headers, bytes]:
        """Status, headers and body of the answer to what no route has seen. `scope`: of the request, if it is known."""


class ConnectionContext:
    """One worker's. State that changes: the server's headers, as they were last written out."""

    def __init__(self, application: Application, budget: ConnectionBudget) -> None:
        self.application = application
        self.budget = budget
        self.limits = budget.limits
        self._headers: list[tuple[bytes, bytes]] = []
        self._lines = b""

    def lines(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Uvicorn's own headers, which it replaces once a second, as they go out."""
        if headers is not self._headers:
            self._headers, self._lines = headers, lines(headers)
        return self._lines

    def refusal(
        self, error: GatewayError, headers: list[tuple[bytes, bytes]], cycle: RequestCycle | None = None
    ) -> bytes:
        """A whole answer to what no route has seen: counted, and the last of its connection.

        `cycle`: the request whose head came last. If it has its answer, the refusal is of what came behind it.
        """
        scope = None if cycle is None or cycle.response_complete else cycle.scope
        status, own, body = self.application.refuse_head(error, scope)
        fields = lines([field for field in own if field[0] != b"connection"])
        return b"".join((STATUS_LINES[status], self.lines(headers), fields, b"connection: close\r\n\r\n", body))
