"""Awaits replies of the store outside of a request's path, and turns an outage into a GatewayError.

gather         awaits calls that were sent together
gather_pages   makes many calls, a page at a time, so that no request waits behind all of them
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.store import Store

PAGE: Final = 64
"""How many calls of a large read are under way at once. With scripts of 50 us they keep the store busy for 3 ms."""


async def gather(replies: Sequence[asyncio.Future[Any]]) -> list[Any]:
    """Returns the replies to calls that were sent together. Raises GatewayError `store_unavailable`."""
    return _raise_faults(await _all(replies))


async def gather_pages(
    store: Store,
    calls: Sequence[Callable[[], asyncio.Future[Any]]],
    read: Callable[[Any], Any] | None = None,
    *,
    faults: bool = False,
) -> list[Any]:
    """Makes many calls and returns their replies, or what `read` makes of each.

    Only one page of one large read per worker is under way at a time. Raises GatewayError `store_unavailable`. With
    `faults`, the result contains a StoreError for each call that the store refused.
    """
    found: list[Any] = []
    for at in range(0, len(calls), PAGE):
        async with store.large_reads:
            page = await _all([call() for call in calls[at : at + PAGE]])
        _raise_faults([reply for reply in page if not (faults and isinstance(reply, StoreError))])
        found += page if read is None else map(read, page)
    return found


async def _all(replies: Sequence[asyncio.Future[Any]]) -> list[Any]:
    # otherwise a second failure would be reported as never retrieved
    return await asyncio.gather(*replies, return_exceptions=True)


def _raise_faults(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, StoreUnavailable):
            raise GatewayError(
                "store_unavailable", f"The gateway cannot reach its store at the moment ({reply.reason}).", wait_ms=1000
            )
        if isinstance(reply, BaseException):
            raise reply
    return replies
