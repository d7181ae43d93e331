"""A stream that begins before its provider has answered, on routes with `early_keepalive_s`.

Proxies and clients give up on connections that are silent for long. After that time the head of an event stream is sent
with status 200, followed by a comment each time that the same time passes again. The provider's answer then decides:

| the provider's answer     | what the client receives                                                  |
|---------------------------|---------------------------------------------------------------------------|
| a stream                  | its events                                                                |
| a refusal, or none        | an error event in the format of its dialect, and the end                  |
| a 2xx that is not a       | the same; the work is charged                                             |
|   stream                  |                                                                           |

The early head affects nothing but the client: for the relay, nothing has been sent, so that other upstreams are tried
as usual, and the log and the metrics have the status of a refusal.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final

from gateway.billing.lifecycle import Outcome
from gateway.errors import GatewayError
from gateway.http.client import Client, Sink, Watch
from gateway.observability.request_record import RequestRecord
from gateway.proxy.admission import Admitted
from gateway.proxy.failover import InvalidAnswer
from gateway.proxy.keep_alive import COMMENT
from gateway.proxy.upstream_answer import EVENT_HEADERS, ProviderRefusal, client_headers
from gateway.types import Body, Headers

Closing = Callable[[GatewayError], bytes]
"""Returns the events by which a stream without any output ends."""
_ERROR: Final = 400
_OK: Final = 200
_BAD_GATEWAY: Final = 502


def early_client(client: Client, admitted: Admitted, record: RequestRecord) -> EarlyClient | None:
    """Returns the client for a stream that may begin early, or None if this one may not."""
    streams = admitted.request.stream and admitted.target.operation.dialect.stream is not None
    if admitted.route.rule.early_keepalive_s is None or not streams or not client.sends_head:
        return None
    return EarlyClient(client, admitted, record)


class EarlyClient:
    """See `client.Client`. Its `status` is that of the provider's answer, even if an early head was sent.

    State that changes: `status`; `closing`, which makes the last events; `_is_early`: the early head was sent;
    `_answers_with_next`: the next bytes are the first ones of the provider's answer.
    """

    sends_head = True
    follows_answer = False

    def __init__(self, client: Client, admitted: Admitted, record: RequestRecord) -> None:
        self.scope = client.scope
        self.headers = client.headers
        self.fields = client.fields
        self.facts = client.facts
        self.status: int | None = None
        self.closing: Closing | None = None
        self._client = client
        self._admitted = admitted
        self._record = record
        self._is_early = False
        self._answers_with_next = False
        self._write_lock = asyncio.Lock()  # an answer begins only after a comment was written completely

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Sends comments until the answer begins."""
        task = asyncio.create_task(self._keep_alive(self._admitted.route.rule.early_keepalive_s or 0.0))
        try:
            yield
        finally:
            task.cancel()

    async def _keep_alive(self, silence_s: float) -> None:
        with contextlib.suppress(OSError):  # the client has left, and its watch handles that
            while True:
                await asyncio.sleep(silence_s)
                async with self._write_lock:
                    if self.status is not None:
                        return
                    if not self._is_early:
                        self._is_early = True
                        await self._client.start(_OK, self._head())
                    await self._client.write(COMMENT)

    def _head(self) -> Headers:
        kind = (b"content-type", b"text/event-stream; charset=utf-8")
        return client_headers(None, self._admitted, self._record, [kind, *EVENT_HEADERS])

    # the answer

    @property
    def starts_now(self) -> bool:
        """See `Client`."""
        return self._client.starts_now

    @property
    def bytes_out(self) -> int:
        """See `Client`."""
        return self._client.bytes_out

    @bytes_out.setter
    def bytes_out(self, size: int) -> None:
        self._client.bytes_out = size

    @property
    def first_byte(self) -> float | None:
        """See `Client`. Comments do not count."""
        return self._client.first_byte

    @first_byte.setter
    def first_byte(self, moment: float | None) -> None:
        self._client.first_byte = moment

    async def start(self, status: int, headers: Headers) -> None:
        """See `Client`. Raises InvalidAnswer if a stream has begun early and the answer is not a stream."""
        async with self._write_lock:
            if not self._is_early:
                await self._client.start(status, headers)
            self._begin(status, headers)

    def start_now(self, status: int, headers: Headers) -> bool:
        """See `Client`. Returns False if writes have to be awaited."""
        if self._write_lock.locked() or not self.starts_now:
            return False
        if not self._is_early:
            self._client.start_now(status, headers)
        self._begin(status, headers)
        return True

    def _begin(self, status: int, headers: Headers) -> None:
        if self._is_early and EVENT_HEADERS[0] not in headers:
            raise InvalidAnswer(Outcome.INVALID_ANSWER, "The provider's answer is not the stream that was asked for.")
        if self._client.status is not None:
            self.status, self._answers_with_next = status, self._is_early

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See `Client`. A stream that has begun ends with an error event."""
        async with self._write_lock:
            if not self._is_early:
                await self._client.answer(status, headers, body)
                self.status = self._client.status
                return
            if status >= _ERROR:
                error: GatewayError = ProviderRefusal(status, headers, body)
            else:
                status = _BAD_GATEWAY
                error = GatewayError("upstream_invalid_response", "The provider's answer is not a stream.")
            if self._client.status is not None:
                self.status = self._record.early_refusal = status
            await self.end(b"" if self.closing is None else self.closing(error))

    def _note_first_byte(self, data: Body) -> None:
        if data and self._answers_with_next:
            self._answers_with_next = False
            self._client.first_byte = time.perf_counter()

    async def write(self, data: Body) -> None:
        """See `Client`."""
        self._note_first_byte(data)
        await self._client.write(data)

    def write_now(self, data: Body) -> bool:
        """See `Client`."""
        self._note_first_byte(data)
        return self._client.write_now(data)

    def buffer(self, data: Body) -> None:
        """See `Client`."""
        self._note_first_byte(data)
        self._client.buffer(data)

    def flush(self) -> None:
        """See `Client`."""
        self._client.flush()

    async def drained(self) -> None:
        """See `Client`."""
        await self._client.drained()

    async def end(self, data: Body = b"") -> None:
        """See `Client`."""
        self._note_first_byte(data)
        await self._client.end(data)

    # the request

    def text(self, name: bytes) -> str | None:
        """See `Client`."""
        return self._client.text(name)

    def body_length(self, max_bytes: int) -> int | None:
        """See `Client`."""
        return self._client.body_length(max_bytes)

    async def read_body(self, max_bytes: int, timeout_s: float, length: int | None = None) -> Body:
        """See `Client`."""
        return await self._client.read_body(max_bytes, timeout_s, length)

    async def pass_body(self, sink: Sink, max_bytes: int, timeout_s: float) -> None:
        """See `Client`."""
        await self._client.pass_body(sink, max_bytes, timeout_s)

    @property
    def memory_is_scarce(self) -> bool:
        """See `Client`."""
        return self._client.memory_is_scarce

    def key_is_known(self) -> None:
        """See `Client`."""
        self._client.key_is_known()

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """See `Client`."""
        return self._client.watch(on_leave)
