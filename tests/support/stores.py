"""A store for tests: it notices an outage quickly, recovers quickly, and is closed at the end of its block."""

import contextlib
from collections.abc import AsyncIterator

from gateway.store.script import Script
from gateway.store.store import Store, StoreSettings, StoreUnavailable

COUNT = Script.of("count", "return redis.call('INCRBY', KEYS[1], ARGV[1])")


def hasty(url: str) -> StoreSettings:
    return StoreSettings(url=url, timeout_s=0.5, connect_timeout_s=1.0, breaker_open_s=0.05)


@contextlib.asynccontextmanager
async def opened(settings: StoreSettings) -> AsyncIterator[Store]:
    store = await Store.open(settings)
    try:
        yield store
    finally:
        await store.close()


async def attempt(store: Store, key: str) -> object:
    """The reply to counting `key` up, or the reason why there is none."""
    try:
        return await store.call(COUNT, [key], [1])
    except StoreUnavailable as fault:
        return fault.reason
