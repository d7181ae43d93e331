"""Creates a `ClientConnection` for each connection that uvicorn's server accepts."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.http.client_address import ClientAddresses
from gateway.http.connection import ClientConnection
from gateway.http.connection_budget import ConnectionBudget, ConnectionLimits
from gateway.http.connection_context import Application, ConnectionContext


class ConnectionFactory:
    """Uvicorn calls it in place of a protocol class. Mutable: the context, which needs uvicorn's loaded application."""

    def __init__(self, limits: ConnectionLimits, addresses: ClientAddresses) -> None:
        self._limits = limits
        self._addresses = addresses
        self._context: ConnectionContext | None = None

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> ClientConnection:
        """Returns the protocol of a connection that has been accepted."""
        if self._context is None:
            budget = ConnectionBudget(self._limits, self._addresses)
            self._context = ConnectionContext(cast("Application", config.loaded_app), budget)
        return ClientConnection(self._context, config, server_state, app_state, _loop or asyncio.get_running_loop())
