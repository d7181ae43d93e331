"""Passes on answers that are neither JSON nor events, such as audio, images and subtitles, without reading them."""

from __future__ import annotations

from gateway.http.client import Client
from gateway.proxy.admission import Opened
from gateway.types import Headers


async def pass_media(opened: Opened, client: Client, head: Headers) -> None:
    """Passes the body on as it arrives. Raises UpstreamFault if it breaks off."""
    answer = opened.answer
    length = [header for header in answer.headers if header[0] == b"content-length"]
    await client.start(answer.status, head + length)

    def pass_on(data: bytes) -> bool:
        return client.write_now(data)

    first = answer.read_nowait()
    paused = bool(first) and not client.write_now(first)
    if not first:
        client.flush()
    while paused or await answer.pump(pass_on):
        paused = False
        await client.drained()
    await client.end()
