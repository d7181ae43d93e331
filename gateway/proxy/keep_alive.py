"""Writes comments into silent streams, on routes with `keepalive_s`, because proxies close silent connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

from gateway.http.client import Client
from gateway.protocol.sse_framer import SseFramer

COMMENT: Final = b": keep-alive\n\n"
_CHECKS_PER_SILENCE: Final = 4


def keeping_alive(
    client: Client, framer: SseFramer, silence_s: float | None
) -> contextlib.AbstractContextManager[None]:
    """Writes a comment between events after `silence_s` without output; None: never. This is a relay's only task."""
    return contextlib.nullcontext() if silence_s is None else _keeping_alive(client, framer, silence_s)


@contextlib.contextmanager
def _keeping_alive(client: Client, framer: SseFramer, silence_s: float) -> Iterator[None]:
    task = asyncio.create_task(_keep_alive(client, framer, silence_s))
    try:
        yield
    finally:
        task.cancel()


async def _keep_alive(client: Client, framer: SseFramer, silence_s: float) -> None:
    quiet = 0
    while True:
        before = client.bytes_out
        await asyncio.sleep(silence_s / _CHECKS_PER_SILENCE)
        quiet = quiet + 1 if client.bytes_out == before else 0
        if quiet >= _CHECKS_PER_SILENCE and framer.aligned and client.status is not None:
            await client.write(COMMENT)
            quiet = 0
