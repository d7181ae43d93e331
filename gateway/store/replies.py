"""Replies of the store off the warm path: an outage becomes the error that a client reads.

gather         calls that are sent together
gather_pages   many calls, a page at a time, so that no request waits behind all of them
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.store import Store

PAGE: Final = 64
"""Calls of a large read that are on their way at once. A script of 50 us each keeps the store busy for 3 ms."""


async def gather(replies: Sequence[asyncio.Future[Any]]) -> list[Any]:
    """Returns the replies to calls that were sent together. Raises GatewayError `store_unavailable`."""
    return _checked(await _all(replies))


async def gather_pages(
    store: Store,
    calls: Sequence[Callable[[], asyncio.Future[Any]]],
    read: Callable[[Any], Any] | None = None,
    *,
    faults: bool = False,
) -> list[Any]:
    """Makes many calls and returns their replies, or what `read` makes of each.

    Of one worker, one page of one large read is on its way at a time. Raises GatewayError `store_unavailable`. With
    `faults`, a StoreError takes the place of the reply to a call that the store refused.
    """
    found: list[Any] = []
    for at in range(0, len(calls), PAGE):
        async with store.lane:
            page = await _all([call() for call in calls[at : at + PAGE]])
        _checked([reply for reply in page if not (faults and isinstance(reply, StoreError))])
        found += page if read is None else map(read, page)
    return found


async def _all(replies: Sequence[asyncio.Future[Any]]) -> list[Any]:
    # otherwise a second failure would be reported as never retrieved
    return await asyncio.gather(*replies, return_exceptions=True)


def _checked(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, StoreUnavailable):
            raise GatewayError(
                "store_unavailable", f"The gateway cannot reach its store at the moment ({reply.reason}).", wait_ms=1000
            )
        if isinstance(reply, BaseException):
            raise reply
    return replies
