"""A connection whose HTTP is over, on its way to another protocol."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol

from uvicorn.server import ServerState


class Places(Protocol):
    """Where connections are counted. `connection_budget.ConnectionBudget` is it."""

    def leave(self, address: str | None, holder: Holder) -> None:
        """A connection has ended."""


class Holder(Protocol):
    """See `connection_budget.Holder`."""

    def unverified_bytes(self) -> int:
        """What it holds now."""

    def drop(self) -> None:
        """Ends it at once."""


class Detached(NamedTuple):
    """A connection whose HTTP is over: its socket, and the places that it has in its worker, which go with it.

    `address`: what it counts against in the budget, until `ConnectionBudget.leave`. `rest`: what came behind the head.
    """

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    server: ServerState
    budget: Places
    address: str | None
    rest: bytes
