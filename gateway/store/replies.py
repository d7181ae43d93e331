"""Replies of the store off the warm path: an outage becomes the error that a client reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from gateway.errors import GatewayError
from gateway.store.errors import StoreUnavailable


async def gather(replies: Sequence[asyncio.Future[Any]]) -> list[Any]:
    """Returns the replies to calls that were sent together. Raises GatewayError `store_unavailable`."""
    # otherwise a second failure would be reported as never retrieved
    done = await asyncio.gather(*replies, return_exceptions=True)
    for reply in done:
        if isinstance(reply, StoreUnavailable):
            raise GatewayError(
                "store_unavailable", f"The gateway cannot reach its store at the moment ({reply.reason}).", wait_ms=1000
            )
        if isinstance(reply, BaseException):
            raise reply
    return done
