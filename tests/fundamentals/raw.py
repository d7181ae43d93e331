"""HTTP/1.1 without a library on either side: what a test writes is what is sent.

RawProvider      a provider that answers with given bytes in given pieces
RawConnection    a client connection: sends bytes, and reads answers without their framing
"""

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

TIMEOUT_S = 20.0


def chunked(pieces: list[bytes]) -> list[bytes]:
    """The pieces in HTTP's chunked framing, one chunk each, and the last chunk."""
    return [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece] + [b"0\r\n\r\n"]


@dataclass
class RawProvider:
    """Answers every request with `pieces`, one write each, head included. Mutable: a test sets what comes next.

    `gate`: nothing is answered before it is set. `close`: the connection ends after an answer.
    """

    pieces: list[bytes] = field(default_factory=list)
    close: bool = False
    gate: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    received: int = 0
    _open: set[socket.socket] = field(default_factory=set)

    def answer(self, head: bytes, pieces: list[bytes], *, close: bool = False) -> None:
        self.pieces, self.close = [head, *pieces], close
        self.gate.set()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(OSError, EOFError), connection.makefile("rb") as stream:
            while _read_request(stream.readline, stream.read):
                self.received += 1
                assert self.gate.wait(TIMEOUT_S)
                for piece in self.pieces:
                    connection.sendall(piece)
                if self.close:
                    connection.shutdown(socket.SHUT_RDWR)
                    break
        self._open.discard(connection)

    @classmethod
    @contextlib.contextmanager
    def serving(cls) -> Iterator[Self]:
        provider = cls()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            provider.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

            def accept() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        threading.Thread(target=provider._serve, args=(connection,), daemon=True).start()

            thread = threading.Thread(target=accept, daemon=True)
            thread.start()
            try:
                yield provider
            finally:
                provider.gate.set()
                listener.shutdown(socket.SHUT_RDWR)
                for connection in list(provider._open):
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                thread.join(TIMEOUT_S)


def _read_request(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> bool:
    length = 0
    if not readline():
        return False
    while (line := readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return len(read(length)) == length


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer as read. `headers`: lower-case names. `chunks`: its body, as HTTP's chunks brought it."""

    status: int
    headers: dict[str, str]
    body: bytes
    chunks: tuple[bytes, ...] = ()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


class RawConnection:
    """One connection of a client."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def request(
        self, body: bytes, *headers: str, method: str = "POST", path: str = "/v1/responses", version: str = "1.1"
    ) -> RawAnswer:
        """Sends a request with its length, and reads the answer."""
        self.send(head(method, path, f"Content-Length: {len(body)}", *headers, version=version) + body)
        return self.read(head_only=method == "HEAD")

    def read(self, *, head_only: bool = False) -> RawAnswer:
        """Reads one answer."""
        status = int(self._stream.readline().split(b" ")[1])
        headers: dict[str, str] = {}
        while (line := self._stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            assert name.lower() not in headers, "each header is sent once"
            headers[name.lower()] = value.strip()
        chunks = () if head_only else self._body(headers)
        return RawAnswer(status, headers, b"".join(chunks), chunks)

    def interim(self) -> int:
        """Reads one interim answer; gives its status."""
        status = int(self._stream.readline().split(b" ")[1])
        assert self._stream.readline() == b"\r\n"
        return status

    def _body(self, headers: dict[str, str]) -> tuple[bytes, ...]:
        if headers.get("transfer-encoding") != "chunked":
            length = headers.get("content-length")
            return (self._stream.read(int(length)) if length is not None else self._stream.read(),)
        chunks = []
        while size := int(self._stream.readline(), 16):
            chunks.append(self._stream.read(size))
            assert self._stream.readline() == b"\r\n"
        assert self._stream.readline() == b"\r\n"
        return tuple(chunks)

    @property
    def closed(self) -> bool:
        """Waits for the server to end the connection. Returns False if it sends anything instead."""
        return self._stream.read(1) == b""


def head(method: str, path: str, *headers: str, version: str = "1.1") -> bytes:
    """A request's head."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: gateway", *headers, "", ""]).encode("latin-1")


def bearer(key: str) -> str:
    return f"Authorization: Bearer {key}"
