"""Opens connections to one origin: TCP, the tunnel through a forward proxy if there is one, and TLS."""

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence

from gateway.upstream.dial import dial
from gateway.upstream.forward_proxy import ForwardProxy, open_tunnel, parse_proxy
from gateway.upstream.origin import parse_origin, tls_context
from gateway.upstream.transport import IDEMPOTENT, FaultKind, TransportConfig, UpstreamFault


class Connector:
    """Opens connections to the origin of one upstream.

    Attributes:
        origin: the address of the upstream.
        http_proxy: the forward proxy that gets whole requests, or None.

    Raises:
        ValueError: the base URL, the proxy or a TLS file is invalid.
    """

    def __init__(self, config: TransportConfig, alpn: Sequence[str], *, tunnels: bool = False) -> None:
        """`tunnels`: use a proxy's tunnel even without TLS, because a proxy that gets requests cannot upgrade them."""
        self.origin = parse_origin(config.base_url)
        proxy = parse_proxy(config.proxy) if config.proxy else None
        tunnels = tunnels or self.origin.tls
        self.http_proxy: ForwardProxy | None = None if tunnels else proxy
        self._tunnel = proxy if tunnels else None
        self._tls = tls_context(config, list(alpn)) if self.origin.tls else None
        self._timeout_s = config.connect_timeout_s
        self._replay_within_s = config.replay_within_s
        self._round_trip_s = 0.0  # the shortest time in which a connection was made; 0: not known yet
        self._first_hop = (proxy.host, proxy.port) if proxy else (self.origin.host, self.origin.port)

    async def open(self, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        """Connect, within `connect_timeout_s` for all steps together, and hand the connection to the protocol.

        Raises:
            UpstreamFault: CONNECT, TLS or CONNECT_TIMEOUT; nothing was sent.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._open(protocol)
        except TimeoutError:
            detail = f"not connected after {self._timeout_s} s"
            raise UpstreamFault(FaultKind.CONNECT_TIMEOUT, detail, sent=False) from None
        except ssl.SSLError as error:
            raise UpstreamFault(FaultKind.TLS, str(error), sent=False) from error
        except OSError as error:
            raise UpstreamFault(FaultKind.CONNECT, str(error), sent=False) from error

    def may_replay(self, method: bytes, fault: UpstreamFault, written_s: float) -> bool:
        """Whether a request that failed because a reused connection died may be repeated on a new one.

        Args:
            method: of the request.
            fault: the fault of the first attempt.
            written_s: when the request was written (monotonic).
        """
        if method in IDEMPOTENT or not fault.sent:
            return True
        within_s = self._replay_within_s
        return within_s > 0 and time.monotonic() - written_s <= within_s + 2 * self._round_trip_s

    async def _open(self, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        host = self.origin.host
        began_s = time.monotonic()
        sock = await dial(*self._first_hop)
        took_s = time.monotonic() - began_s
        self._round_trip_s = min(self._round_trip_s or took_s, took_s)
        try:
            if self._tunnel is not None:
                await open_tunnel(sock, self._tunnel, host, self.origin.port)
            await asyncio.get_running_loop().create_connection(
                protocol, sock=sock, ssl=self._tls, server_hostname=host if self._tls else None
            )
        except BaseException:
            sock.close()
            raise
