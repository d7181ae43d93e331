"""Sends a notice by HTTP. One attempt is one request on a connection of its own; a redirect is not followed."""

from __future__ import annotations

import time
from typing import Final
from urllib.parse import urlsplit

from gateway.notices.message import Notice, SendingFailed, webhook_body, webhook_headers
from gateway.notices.policy import Recipient
from gateway.upstream.buffered_answer import read_whole
from gateway.upstream.factory import build_transport
from gateway.upstream.transport import TransportConfig, UpstreamFault

_MAX_ANSWER_BYTES: Final = 4096
_MAX_CONNECTIONS: Final = 4
_GONE: Final = 410


class WebhookSender:
    """Sends notices to one webhook. Raises ValueError for a URL, a proxy or a file that cannot be used."""

    def __init__(self, recipient: Recipient, timeout_s: float, ca_file: str | None, proxy: str | None) -> None:
        parts = urlsplit(recipient.url)
        config = TransportConfig(
            base_url=f"{parts.scheme}://{parts.netloc}",
            connect_timeout_s=timeout_s,
            first_byte_timeout_s=timeout_s,
            chunk_timeout_s=timeout_s,
            max_connections=_MAX_CONNECTIONS,
            max_idle=0,
            ca_file=ca_file,
            proxy=proxy,
        )
        self._transport = build_transport(config, "native")
        self._target = ((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode()
        self._recipient = recipient
        self._timeout_s = timeout_s

    async def send(self, notice: Notice) -> None:
        """Sends a notice. Raises SendingFailed. The caller bounds the time."""
        recipient = self._recipient
        body = webhook_body(notice, recipient.form)
        headers = webhook_headers(notice, body, recipient.keys, int(time.time()))
        try:
            answer = await self._transport.send(b"POST", self._target, headers, body)
        except UpstreamFault as fault:
            raise SendingFailed(str(fault)) from None
        if 200 <= answer.status < 300:  # noqa: PLR2004 - the successful statuses
            answer.abort()  # only the status matters, and the connection is not used again
            return
        whole = await read_whole(answer, _MAX_ANSWER_BYTES, self._timeout_s)
        said = whole.body.decode(errors="replace")
        why = f"status {answer.status}: {said}" if said else f"status {answer.status}"
        raise SendingFailed(why, final=answer.status == _GONE, wait_s=_wait_s(dict(answer.headers)))

    async def close(self) -> None:
        """Closes the connection."""
        await self._transport.close()


def _wait_s(headers: dict[bytes, bytes]) -> float:
    """Returns the seconds of a Retry-After header, or 0 if it is missing or a date."""
    text = headers.get(b"retry-after", b"").strip()
    return float(text) if text.isdigit() and len(text) < 10 else 0.0  # noqa: PLR2004 - more digits are no waiting time
