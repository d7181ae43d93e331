"""A forward proxy between the gateway and an upstream: its URL, and the tunnel through it (RFC 9110, 9.3.6).

http:// upstream    the proxy gets the whole request, with an absolute target and the proxy's credentials
https:// upstream   CONNECT host:port, and TLS to the upstream inside the tunnel, so that the proxy sees no key
"""

import asyncio
import base64
import socket
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from gateway.upstream.transport import FaultKind, UpstreamFault

_DEFAULT_PORT: Final = 80
_MAX_ANSWER_BYTES: Final = 16 * 1024
_END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ForwardProxy:
    """The address of a proxy. `authorization`: the value of Proxy-Authorization, or None."""

    host: str
    port: int
    authorization: bytes | None = field(default=None, repr=False)

    def fields(self) -> bytes:
        """Return the header lines that each request to the proxy itself needs."""
        return b"" if self.authorization is None else b"proxy-authorization: %b\r\n" % self.authorization


def parse_proxy(url: str) -> ForwardProxy:
    """Parse `http://[user:password@]host[:port]`.

    Raises:
        ValueError: another scheme, no host, an invalid port, or a path or query.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("proxy: the URL is malformed") from None
    if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("proxy must be a URL such as http://[user:password@]host:port")
    host = parts.hostname
    if ":" not in host:
        host = host.encode("idna").decode("ascii")
    authorization = None
    if parts.username is not None or parts.password is not None:
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        if ":" in user:
            raise ValueError("proxy: a user's name cannot contain a colon (RFC 7617)")
        authorization = b"Basic " + base64.b64encode(f"{user}:{password}".encode())
    return ForwardProxy(host, _DEFAULT_PORT if port is None else port, authorization)


async def open_tunnel(sock: socket.socket, proxy: ForwardProxy, host: str, port: int) -> None:
    """Open a tunnel to `host` through the proxy to which `sock` is connected. The socket must be non-blocking.

    Raises:
        UpstreamFault: CONNECT; the proxy refused, or did not speak HTTP. Nothing was sent to the upstream.
        OSError: the connection to the proxy failed.
    """
    loop = asyncio.get_running_loop()
    authority = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode("ascii")
    head = b"CONNECT %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (authority, authority, proxy.fields())
    await loop.sock_sendall(sock, head)
    answer = b""
    while _END not in answer:
        if len(answer) > _MAX_ANSWER_BYTES:
            raise _refused("its answer to CONNECT is too large")
        data = await loop.sock_recv(sock, _MAX_ANSWER_BYTES)
        if not data:
            raise _refused("it closed the connection instead of answering CONNECT")
        answer += data
    line, _, rest = answer.partition(b"\r\n")
    version, _, status = line.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not (status[:3].isdigit() and status[3:4] in (b"", b" ")):
        raise _refused("it does not speak HTTP")
    if not status.startswith(b"2"):
        raise _refused(f"it answered CONNECT with {status[:3].decode()}")
    if rest.partition(_END)[2] or not answer.endswith(_END):
        raise _refused("it sent bytes of its own into the tunnel")  # the upstream does not speak first in TLS


def _refused(why: str) -> UpstreamFault:
    return UpstreamFault(FaultKind.CONNECT, f"the forward proxy: {why}", sent=False)
