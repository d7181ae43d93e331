"""The address of a client: its peer's, or what trusted proxies say of it in X-Forwarded-For.

addresses.of(scope)     the address itself, for logs
addresses.host(scope)   what attempts are counted against: an IPv6 client is its /64, which is what one host is given
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from gateway.types import Scope

_IPV6_HOST_BITS: Final = 64
_FORWARDED: Final = b"x-forwarded-for"


class ClientAddresses:
    """Reads client addresses; `trusted_proxies` are networks in CIDR notation whose X-Forwarded-For is believed."""

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        self._trusted: tuple[IPv4Network | IPv6Network, ...] = tuple(map(ip_network, trusted_proxies))

    def of(self, scope: Scope) -> str:
        """The client's address; "" on a Unix socket without a proxy that names one."""
        peer = scope.get("client")
        address: str = peer[0] if peer else ""
        if not self._trusted or not self._is_trusted(address):
            return address
        hops = [hop.strip() for name, value in scope["headers"] if name == _FORWARDED for hop in value.split(b",")]
        # Each proxy appends the address that it was asked by, so the client is the first untrusted one from the end.
        for hop in reversed(hops):
            named = hop.decode("latin-1")
            try:
                ip_address(named)
            except ValueError:
                return address  # a trusted proxy does not write what is no address
            address = named
            if not self._is_trusted(named):
                break
        return address

    def host(self, scope: Scope) -> str:
        """The host to count attempts against."""
        address = self.of(scope)
        try:
            found = ip_address(address)
        except ValueError:
            return address
        if isinstance(found, IPv6Address):
            return str(IPv6Network((found, _IPV6_HOST_BITS), strict=False).network_address)
        return address

    def _is_trusted(self, address: str) -> bool:
        try:
            found = ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._trusted)
