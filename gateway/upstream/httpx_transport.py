"""The transport over httpx, for what the native one leaves out: a forward proxy, HTTP/2. Slower, same behaviour.

What httpx does not do by itself, and how it is done here:
| behaviour                                  | how                                                                  |
|--------------------------------------------|----------------------------------------------------------------------|
| a bound on the whole head, and per chunk   | asyncio.timeout around the wait: httpx bounds single socket reads    |
| was anything sent? was the connection new? | httpcore's `trace` extension tells of each step                      |
| a cancelled TLS handshake is closed        | the same                                                             |
| bytes after the end of an answer           | looked for when it closes; httpx would read them as the next answer  |
| an answer with both length and chunked     | refused by its headers; h11 would take it as chunked                 |
| a fair queue that survives cancellation    | a semaphore in front of httpcore's pool                              |
| a connect cancelled in its last turn       | its connection is looked up in httpcore's pool and closed            |
| abort that is synchronous                  | a task closes the answer; `close` waits for such tasks               |
| a left HTTP/2 stream costs nothing more    | `leave_stream` resets it and gives its unread bytes' window back    |

One thing it cannot do: httpx reads no answer before the whole request is written (or writing has failed).
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import httpcore
import httpx

from gateway.types import Body
from gateway.upstream.httpcore_inside import close_if_poisoned, http2_connection, leave_stream
from gateway.upstream.origin import parse_origin, tls_context
from gateway.upstream.request_head import RequestHeads
from gateway.upstream.transport import IDEMPOTENT, FaultKind, TransportConfig, UpstreamFault

_FIRST_STATUS: Final = 200
_LAST_STATUS: Final = 599
_HEAD_TOO_LARGE: Final = 431  # what h11 suggests when its buffer limit is reached
_REFUSED_STREAM: Final = 7  # RFC 9113, 7: nothing was processed
_MAX_REPEATS: Final = 2  # one is meant; httpcore may give out a connection that has just come free
_Errors = tuple[type[Exception], ...]
_H2_ERRORS: Final[_Errors] = (import_module("h2.exceptions").H2Error,) if find_spec("h2") else ()  # an extra
_MALFORMED: Final[_Errors] = (httpx.ProtocolError, *_H2_ERRORS)
_ENDED_HTTP2: Final[_Errors] = (httpcore.ConnectionNotAvailable, *_H2_ERRORS)  # httpcore lets them out of a body
_FAILURES: Final[_Errors] = (httpx.HTTPError, httpx.StreamError, TimeoutError, *_ENDED_HTTP2)


class _Progress:
    """What httpcore's trace has told about one attempt (mutable)."""

    __slots__ = (
        "_pool",
        "connected_s",
        "dialled_s",
        "fresh",
        "http2",
        "judged",
        "response",
        "sent",
        "stream",
        "written_s",
    )

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.fresh = False
        self.dialled_s = 0.0  # when this attempt began to connect
        self.connected_s = 0.0  # how long that took
        self.sent = False
        self.written_s = 0.0  # when this attempt began to be written (monotonic); 0: it was not
        self.judged = False  # the upstream itself ended this request, and may have worked on it: not to be repeated
        self.http2: Any = None  # httpcore's HTTP/2 connection, where this attempt has a stream on one
        self.stream: Any = None  # the TCP or TLS connection, where this attempt made one
        self.response: httpx.Response | None = None

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """Follow the steps; httpcore awaits this at each."""
        if event == "connection.connect_tcp.started":
            self.fresh, self.dialled_s = True, time.monotonic()
        elif event == "connection.connect_tcp.complete" or event.endswith(".start_tls.complete"):
            self.stream = info["return_value"]
            self.connected_s = self.connected_s or time.monotonic() - self.dialled_s
        elif event.endswith(".start_tls.failed") and self.stream is not None:
            await self.stream.aclose()  # httpcore does so itself, but not where the handshake was cancelled
        elif event.endswith(".send_request_headers.started"):
            if info["request"].method != b"CONNECT":  # that one only asks a proxy for a tunnel
                self.sent, self.written_s = True, time.monotonic()
            if event.startswith("http2."):
                self.http2 = http2_connection(self._pool, info["request"])
        elif event == "http11.response_closed.started" and self.response is not None:
            await close_if_poisoned(self.response)
        elif event == "http2.response_closed.started" and self.http2 is not None:
            await leave_stream(self.http2, info["stream_id"])


class HttpxAnswer:
    """`transport.Answer` over an httpx response. Reads from the network on demand, so nothing is ever buffered here."""

    ended = False  # httpx tells at the next read

    def __init__(self, owner: "HttpxTransport", response: httpx.Response, chunk_timeout_s: float) -> None:
        self.status = response.status_code
        self.headers = [(name.lower(), value) for name, value in response.headers.raw]
        self._owner = owner
        self._response = response
        self._chunks: AsyncIterator[bytes] | None = response.aiter_raw()
        self._chunk_timeout_s = chunk_timeout_s
        self._fault: UpstreamFault | None = None

    def read_nowait(self) -> bytes:
        """See `Answer.read_nowait`; nothing waits here between reads."""
        return b""

    async def read(self) -> bytes:
        """See `Answer.read`."""
        try:
            async with asyncio.timeout(self._chunk_timeout_s):
                while self._chunks is not None:
                    try:
                        data = await anext(self._chunks)
                    except StopAsyncIteration:
                        self._ended()
                    else:
                        if data and self._chunks is not None:
                            return data
        except _FAILURES as error:
            if self._fault is None:
                self._abort(self._translate(error))
        except asyncio.CancelledError:
            self.abort()
            raise
        if self._fault is not None:
            raise self._fault
        return b""

    async def pump(self, take: Callable[[bytes], bool]) -> bool:
        """See `Answer.pump`."""
        while data := await self.read():
            if not take(data):
                return True
        return False

    def abort(self) -> None:
        """See `Answer.abort`."""
        if self._chunks is not None:
            self._abort(UpstreamFault(FaultKind.CUT, "aborted by the gateway", sent=True))

    def _ended(self) -> None:
        if self._chunks is not None:
            self._chunks = None
            self._owner.free()

    def _abort(self, fault: UpstreamFault) -> None:
        self._fault = fault
        self._chunks = None
        self._owner.discard(self._response)

    def _translate(self, error: Exception) -> UpstreamFault:
        if isinstance(error, TimeoutError | httpx.TimeoutException):
            return UpstreamFault(FaultKind.CHUNK_TIMEOUT, f"no bytes for {self._chunk_timeout_s} s", sent=True)
        # h11 and h2 have one exception for both; only its words tell a body that ends too early from a malformed one.
        early = any(words in str(error) for words in ("closed connection", "Server disconnected"))
        malformed = isinstance(error, _MALFORMED) and not early and _ended_by_upstream(error) is None
        return UpstreamFault(FaultKind.PROTOCOL if malformed else FaultKind.CUT, str(error), sent=True)


class HttpxTransport:
    """`transport.Transport` over httpx's network half: without its client, so no cookies, redirects or own headers.

    Raises:
        ValueError: the base URL, the proxy or a TLS file is wrong, or HTTP/2 is wanted and `h2` is not installed.
    """

    def __init__(self, config: TransportConfig) -> None:
        if config.http2 and find_spec("h2") is None:
            raise ValueError("http2 needs the package h2: install the gateway with its http2 extra")
        self._config = config
        origin = parse_origin(config.base_url)
        self._heads = RequestHeads(origin)
        self._base = httpx.URL(
            scheme="https" if origin.tls else "http", host=origin.host, port=origin.port, raw_path=origin.path or b"/"
        )
        self._path = origin.path
        wait_s = config.connect_timeout_s
        self._timeouts = {"connect": wait_s, "pool": wait_s, "read": None, "write": None}
        try:
            self._network = httpx.AsyncHTTPTransport(
                verify=tls_context(config, None) if origin.tls else False,
                http2=config.http2,
                limits=httpx.Limits(
                    max_connections=config.max_connections,
                    max_keepalive_connections=config.max_idle,
                    keepalive_expiry=config.idle_expiry_s,
                ),
                trust_env=False,
                proxy=config.proxy,
            )
        except httpx.InvalidURL as error:
            raise ValueError(f"proxy: {error}") from error
        # Mutable. The queue for a place is ours: httpcore's own loses the place of a caller who is cancelled in the
        # turn in which a connection is given to them.
        self._places = asyncio.Semaphore(config.max_connections)
        self._closing: set[asyncio.Task[None]] = set()  # answers that are being closed
        self._closed = False
        self._round_trip_s = 0.0  # the shortest that connecting has taken; 0: not known yet

    @property
    def open_connections(self) -> int:
        """Connections that are open or being opened."""
        return len(self._pooled())

    @property
    def idle_connections(self) -> int:
        """Open connections that wait for a request."""
        return sum(1 for connection in self._pooled() if connection.is_idle())

    async def send(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body: Body) -> HttpxAnswer:
        """See `Transport.send`."""
        fields = self._heads.fields(method, target, headers)
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                await self._places.acquire()
        except TimeoutError:
            detail = f"all {self._config.max_connections} connections are busy"
            raise UpstreamFault(FaultKind.POOL_FULL, detail, sent=False) from None
        try:
            response = await self._attempt_until_fresh(method, target, fields, body)
        except BaseException:  # cancellation too: the place is for the next caller
            self.free()
            raise
        answer = HttpxAnswer(self, response, self._config.chunk_timeout_s)
        fault = self._fault_of_head(response)
        if fault is not None:
            answer.abort()
            raise fault
        return answer

    async def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        await self._network.aclose()
        while self._closing:
            await asyncio.wait(self._closing)

    def free(self) -> None:
        """Give up a place: an exchange is over."""
        self._places.release()

    def discard(self, response: httpx.Response) -> None:
        """Close a response that is not wanted any more, from the next turn of the loop on; then its place is free."""
        self._keep(asyncio.ensure_future(self._close_quietly(response)))

    async def _close_quietly(self, response: httpx.Response) -> None:
        try:
            with contextlib.suppress(RuntimeError, *_FAILURES):  # broken already: there is nothing left to close
                await response.aclose()
        finally:
            self.free()

    async def _attempt_until_fresh(
        self, method: bytes, target: bytes, fields: list[tuple[bytes, bytes]], body: Body
    ) -> httpx.Response:
        repeats, sent = 0, False
        while True:
            progress = _Progress(self._network._pool)  # noqa: SLF001 - as in _pooled
            progress.sent = sent  # an earlier attempt's bytes stay sent
            try:
                return await self._attempt(method, target, fields, body, progress)
            except UpstreamFault as fault:
                dead = fault.kind is FaultKind.RESET and not progress.fresh and not progress.judged
                if not dead or repeats == _MAX_REPEATS or not self._may_repeat(method, progress):
                    raise
            repeats, sent = repeats + 1, progress.sent
            await self._drop_idle()

    def _may_repeat(self, method: bytes, progress: _Progress) -> bool:
        """Whether no server can have worked on the request (`replay_within_s`), or it means the same twice."""
        if method in IDEMPOTENT or not progress.written_s:
            return True
        within_s = self._config.replay_within_s
        return bool(within_s) and time.monotonic() - progress.written_s <= within_s + 2 * self._round_trip_s

    async def _attempt(
        self, method: bytes, target: bytes, fields: list[tuple[bytes, bytes]], body: Body, progress: _Progress
    ) -> httpx.Response:
        if self._closed:
            raise UpstreamFault(FaultKind.CONNECT, "the transport is closed", sent=False)
        request = httpx.Request(
            method.decode("ascii"),
            self._base.copy_with(raw_path=self._path + target),
            headers=fields,
            content=bytes(body),
            extensions={"trace": progress.trace, "timeout": self._timeouts},
        )
        try:
            async with asyncio.timeout(self._config.first_byte_timeout_s):
                response = await self._network.handle_async_request(request)
        except _FAILURES as error:
            self._reap(progress.stream)
            raise self._translate(error, progress) from error
        except asyncio.CancelledError:
            self._reap(progress.stream)
            raise
        response.request = request
        progress.response = response
        if progress.connected_s:
            self._round_trip_s = min(self._round_trip_s or progress.connected_s, progress.connected_s)
        return response

    async def _drop_idle(self) -> None:
        """Close what waits for a request: where one reused connection has died, the pool would give out the next."""
        for connection in self._pooled():
            if connection.is_idle():
                await connection.aclose()

    def _reap(self, stream: Any) -> None:
        """Close the connection that a cancelled attempt made and never used.

        httpcore keeps one that was cancelled between "connected" and its first request as NEW, for ever, in its pool.
        """
        for connection in self._pooled():
            inner = getattr(connection, "_connection", None)
            if stream and getattr(inner, "_network_stream", None) is stream and ", NEW," in connection.info():
                self._keep(asyncio.ensure_future(connection.aclose()))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _fault_of_head(self, response: httpx.Response) -> UpstreamFault | None:
        names = [name.lower() for name, _ in response.headers.raw]
        if sum(len(name) + len(value) + 4 for name, value in response.headers.raw) > self._config.max_head_bytes:
            return UpstreamFault(FaultKind.TOO_LARGE, "the head is larger than max_head_bytes", sent=True)
        if b"transfer-encoding" in names and b"content-length" in names:
            return UpstreamFault(FaultKind.PROTOCOL, "both a length and a transfer coding", sent=True)
        if not _FIRST_STATUS <= response.status_code <= _LAST_STATUS:
            return UpstreamFault(FaultKind.PROTOCOL, f"status {response.status_code}", sent=True)
        return None

    def _translate(self, error: Exception, progress: _Progress) -> UpstreamFault:
        detail = str(error) or type(error).__name__
        kind = _connect_kind(error)
        if kind is None:
            causes = _causes(error)
            ended = _ended_by_upstream(error)
            if isinstance(error, TimeoutError | httpx.TimeoutException):
                kind = FaultKind.FIRST_BYTE_TIMEOUT
                detail = f"no answer for {self._config.first_byte_timeout_s} s"
            elif any(getattr(cause, "error_status_hint", 0) == _HEAD_TOO_LARGE for cause in causes):
                kind = FaultKind.TOO_LARGE
            elif ended is not None:
                kind = FaultKind.RESET
                # RFC 9113, 6.8 and 8.7: a refused stream, and any with GOAWAY's last stream at 0, was not processed.
                progress.judged = ended.error_code != _REFUSED_STREAM and getattr(ended, "last_stream_id", 1) != 0
                progress.sent = progress.judged
            elif isinstance(error, _MALFORMED) and "Server disconnected" not in detail:
                kind = FaultKind.PROTOCOL
            else:
                kind = FaultKind.RESET
        return UpstreamFault(kind, detail, sent=progress.sent)

    def _pooled(self) -> list[Any]:
        pool = self._network._pool  # noqa: SLF001 - httpx has no public count of its connections
        return [connection for connection in pool.connections if not connection.is_closed()]


def _connect_kind(error: Exception) -> FaultKind | None:
    """Name the failures from before a request is written; None for any other."""
    if isinstance(error, httpx.ConnectTimeout):
        return FaultKind.CONNECT_TIMEOUT
    if isinstance(error, httpx.ConnectError) and any(isinstance(cause, ssl.SSLError) for cause in _causes(error)):
        return FaultKind.TLS
    if isinstance(error, httpx.ConnectError | httpx.ProxyError | httpx.UnsupportedProtocol):
        return FaultKind.CONNECT
    return None


def _causes(error: BaseException | None) -> list[BaseException]:
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _ended_by_upstream(error: BaseException) -> Any:
    """The RST_STREAM or GOAWAY (h2's event) that an error comes from, or None. Both have an `error_code`."""
    for cause in _causes(error):
        if cause.args and hasattr(cause.args[0], "error_code"):
            return cause.args[0]
    return None
