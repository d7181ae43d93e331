"""Checks a store that is not embedded, before the gateway serves.

store_refusal(...) returns why the store will never accept the gateway, such as wrong credentials
dangers(...)       returns how the store's configuration may lose data
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

    An unavailable store is no reason, because the gateway waits for it.
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
        dangers = durability.explain_dangers(found, durability.FATAL)
        return "; ".join([*dangers, "or set store.accept_data_loss = true"] if dangers else [])

    configure_logging(settings.log, level="error")  # the attempt itself needs no log line
    return "" if settings.store.url == EMBEDDED else asyncio.run(attempt())


def dangers(settings: Settings) -> list[str]:
    """Returns the dangers of the store's configuration. An unreachable store counts as one."""

    async def inspect() -> list[str]:
        try:
            store = await Store.open(store_settings(settings))
        except StoreError as error:
            return [str(error)]
        try:
            return durability.explain_dangers(await durability.inspect(store))
        except StoreUnavailable as error:
            return [f"it could not be inspected: {error}"]
        finally:
            await store.close()

    configure_logging(settings.log, level="error")
    return asyncio.run(inspect())
