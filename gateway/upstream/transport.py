"""The interface to an upstream: sends one request, and returns one answer.

| module             | what it is                                                             |
|--------------------|------------------------------------------------------------------------|
| transport.py       | this interface, its configuration and its one exception                |
| factory.py         | build_transport: which implementation an upstream gets                 |
| pool.py            | the native Transport: keep-alive connections to one origin             |
| http1.py           | one native HTTP/1.1 connection                                         |
| answer.py          | the answers that come over it                                          |
| request_head.py    | request heads as bytes; refuses what could split a request             |
| origin.py, dial.py | base_url and TLS trust; TCP connections by Happy Eyeballs (RFC 8305)   |
| http2_pool.py      | the HTTP/2 Transport: requests share a few connections                 |
| http2.py           | one HTTP/2 connection and its streams; goaway.py: how it ends          |
| connector.py       | TCP, the tunnel through a forward_proxy.py, and TLS                    |

Every failure is an `UpstreamFault`. `kind` is what happened. `sent` is whether the upstream may have started work,
which decides whether another upstream may be tried.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from gateway.concurrency.disk_body import SentBody
from gateway.types import Body


class FaultKind(StrEnum):
    """What went wrong between the gateway and an upstream."""

    CONNECT = "connect"  # refused, unreachable, unknown host, or the transport is closed
    TLS = "tls"  # handshake or certificate
    CONNECT_TIMEOUT = "connect_timeout"  # TCP and TLS together took too long
    POOL_FULL = "pool_full"  # no connection became free in time
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"  # no head of an answer in time
    CHUNK_TIMEOUT = "chunk_timeout"  # the body did not continue for too long
    RESET = "reset"  # the connection died before the head of the answer was complete
    CUT = "cut"  # the connection died or was aborted inside the body
    PROTOCOL = "protocol"  # not HTTP, or HTTP that can be parsed in two ways
    BODY_LOST = "body_lost"  # the rest of the request's body could not be read from the gateway's disk
    TOO_LARGE = "too_large"  # the head of the answer, or the framing around its body, exceeds max_head_bytes


IDEMPOTENT: Final = frozenset({b"GET", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"})
"""Idempotent methods (RFC 9110, 9.2.2). They are always repeated if a reused connection dies."""


class UpstreamFault(Exception):
    """An exchange with an upstream failed.

    Attributes:
        kind: what happened.
        detail: for the log and never for clients, because it may quote the peer or the operating system.
        sent: request bytes may have reached the upstream's program.
    """

    def __init__(self, kind: FaultKind, detail: str, *, sent: bool) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.sent = sent


@dataclass(frozen=True, slots=True)
class TransportConfig:
    """How to reach one origin.

    Attributes:
        base_url: `http(s)://host[:port][/path]`; the path precedes every target.
        connect_timeout_s: for TCP and TLS together, and again for the wait for a free connection.
        first_byte_timeout_s: from the start of the request to the end of the answer's head.
        chunk_timeout_s: how long one read may wait for body bytes.
        max_connections: connections that are open at once; further callers queue, first come first served.
        max_idle: idle connections that are kept for reuse.
        idle_expiry_s: an idle connection is closed after this time.
        max_head_bytes: of an answer's head, and of the framing around body bytes (chunk extensions, trailers).
        max_unread_bytes: body bytes that are buffered for a slow reader before reading from the upstream pauses.
        ca_file: PEM; trusted instead of the system's authorities.
        client_cert_file: PEM; shown to the upstream.
        client_key_file: PEM; needed if client_cert_file does not contain the key.
        http2: offer HTTP/2 (needs the `http2` extra).
        proxy: `http://[user:password@]host:port` of a forward proxy.
        replay_within_s: a POST is repeated if its reused connection died within this time and two round trips after it
            was written, because no server can have worked on it so soon. 0: never.

    Raises:
        ValueError: a bound is not positive, or a key has no certificate.
    """

    base_url: str
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 300.0
    chunk_timeout_s: float = 120.0
    max_connections: int = 10_000
    max_idle: int = 256
    idle_expiry_s: float = 30.0
    max_head_bytes: int = 64 * 1024
    max_unread_bytes: int = 256 * 1024
    ca_file: str | None = None
    client_cert_file: str | None = None
    client_key_file: str | None = None
    http2: bool = False
    proxy: str | None = None
    replay_within_s: float = 0.1

    def __post_init__(self) -> None:
        """Refuse bounds with which a request would block or never end."""
        for name in ("connect_timeout_s", "first_byte_timeout_s", "chunk_timeout_s", "idle_expiry_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a positive number of seconds")
        for name in ("max_connections", "max_head_bytes", "max_unread_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 0 <= self.replay_within_s < float("inf"):
            raise ValueError("replay_within_s must be a number of seconds, or 0")
        if self.max_idle < 0:
            raise ValueError("max_idle must not be negative")
        if self.client_key_file and not self.client_cert_file:
            raise ValueError("client_key_file needs client_cert_file")


class Answer(Protocol):
    """An upstream's answer whose head has arrived.

    Its user reads it to the end or calls `abort`. There is one reader at a time. Cancelling a read aborts the answer.
    """

    status: int  # 200..599: informational answers are skipped
    headers: list[tuple[bytes, bytes]]  # names in lower case, in their original order

    @property
    def ended(self) -> bool:
        """Whether the body has arrived completely."""

    def read_nowait(self) -> bytes:
        """Return the body bytes that have arrived, or `b""`. Raises nothing."""

    async def read(self) -> bytes:
        """Return all body bytes that have arrived, waiting for the first. Returns `b""` exactly at the regular end.

        Raises:
            UpstreamFault: CUT, CHUNK_TIMEOUT, PROTOCOL or TOO_LARGE, after the bytes that came before the fault.
        """

    async def pump(self, take: Callable[[bytes], bool]) -> bool:
        """Pass on body bytes as they arrive, without waking a task for each read.

        `take` receives what `read` would return. It is called from the event loop, and its exceptions are raised here.

        Returns:
            True if `take` returned False, so that the rest is still to be read. False at the regular end.

        Raises:
            UpstreamFault: as `read`.
        """

    def abort(self) -> None:
        """Close the connection at once and drop unread bytes.

        A waiting read raises CUT. After the end, nothing happens.
        """


class Progress(Protocol):
    """The progress of a request. `sent`: its bytes may have reached the upstream's program."""

    sent: bool


class Transport(Protocol):
    """Connections to one origin."""

    @property
    def open_connections(self) -> int:
        """Connections that are open or being opened."""

    @property
    def idle_connections(self) -> int:
        """Open connections that wait for a request."""

    async def send(
        self,
        method: bytes,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        body: Body | SentBody,
        progress: Progress | None = None,
    ) -> Answer:
        """Send one request and wait for the head of its answer.

        Args:
            method: upper-case letters; not HEAD or CONNECT.
            target: `/path[?query]`, appended to the base URL's path.
            headers: sent as given, except that host, lengths and hop-by-hop fields are dropped.
            body: the whole body; a large one is never copied, and a body on disk is read in pieces.
            progress: its `sent` is set when bytes of the request leave, for callers that may be cancelled.

        Raises:
            UpstreamFault: no answer.
            ValueError: something that must not be forwarded (CR, LF, NUL, ...); nothing was sent.
        """

    async def close(self) -> None:
        """Close every connection. Answers that are being read end with CUT. Idempotent."""
