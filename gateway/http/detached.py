"""A connection that leaves HTTP for another protocol."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol

from uvicorn.server import ServerState


class Places(Protocol):
    """Counts connections: `connection_budget.ConnectionBudget`."""

    def leave(self, address: str | None, holder: Holder) -> None:
        """Takes back the count of a connection that has ended."""


class Holder(Protocol):
    """See `connection_budget.Holder`."""

    def unverified_bytes(self) -> int:
        """Returns the number that it holds now."""

    def drop(self) -> None:
        """Closes it at once."""


class Detached(NamedTuple):
    """A connection that leaves HTTP: its socket, and where its worker has registered it.

    `address` is the one that it counts against in the budget, until `ConnectionBudget.leave`. `rest` is what the client
    sent after the head.
    """

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    server: ServerState
    budget: Places
    address: str | None
    rest: bytes
