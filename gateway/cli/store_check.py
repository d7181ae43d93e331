"""What a store that is not embedded says of itself before the gateway serves.

store_refusal(...) why the store refuses the gateway permanently (wrong credentials); a store that is down does not
dangers(...)       what its configuration may lose
"""

from __future__ import annotations

import asyncio

from gateway.config.settings import Settings
from gateway.observability.request_log import configure_logging
from gateway.store import durability
from gateway.store.store import Store, StoreError, StoreUnavailable
from gateway.store.url import EMBEDDED
from gateway.worker.parts import store_settings


def store_refusal(settings: Settings) -> str:
    """Returns why the store will never accept the gateway, or "".

    An unavailable store is no reason: the gateway waits for it.
    """

    async def attempt() -> str:
        try:
            store = await Store.open(store_settings(settings))
        except StoreError as error:
            return str(error)
        try:
            found = {} if settings.store.accept_data_loss else await durability.inspect(store)
        except StoreUnavailable:
            return ""
        finally:
            await store.close()
        dangers = durability.explained(found, durability.FATAL)
        return "; ".join([*dangers, "or set store.accept_data_loss = true"] if dangers else [])

    configure_logging(settings.log, level="error")  # the attempt itself is not worth a log line
    return "" if settings.store.url == EMBEDDED else asyncio.run(attempt())


def dangers(settings: Settings) -> list[str]:
    """Returns the dangers of the store's configuration. A store that cannot be reached is one line."""

    async def ask() -> list[str]:
        try:
            store = await Store.open(store_settings(settings))
        except StoreError as error:
            return [str(error)]
        try:
            return durability.explained(await durability.inspect(store))
        except StoreUnavailable as error:
            return [f"it is not there to be asked: {error}"]
        finally:
            await store.close()

    configure_logging(settings.log, level="error")
    return asyncio.run(ask())
