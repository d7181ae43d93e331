"""The address of a client: its peer's, or what trusted proxies say of it in X-Forwarded-For.

addresses.of(scope)     the address itself, for logs
addresses.host(scope)   what attempts are counted against: an IPv6 client is its /64, which is what one host is given

One client has one address, however it is written: an IPv4 address that came over an IPv6 socket (`::ffff:192.0.2.1`) is
the IPv4 address, and neither a port nor brackets nor a zone belongs to one.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from gateway.types import Scope

_IPV6_HOST_BITS: Final = 64
_MAPPED_BITS: Final = 96  # of an IPv6 address, before the IPv4 address that is mapped into it (RFC 4291, section 2.5.5)
_FORWARDED: Final = b"x-forwarded-for"


class ClientAddresses:
    """Reads client addresses; `trusted_proxies` are networks in CIDR notation whose X-Forwarded-For is believed."""

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        self._trusted = tuple(_unmapped_network(ip_network(network)) for network in trusted_proxies)

    def of(self, scope: Scope) -> str:
        """The client's address; "" on a Unix socket without a proxy that names one."""
        peer = scope.get("client")
        address: str = normalised(peer[0]) if peer else ""
        if not self._trusted or not self.is_trusted(address):
            return address
        hops = [hop for name, value in scope["headers"] if name == _FORWARDED for hop in value.split(b",")]
        # Each proxy appends the address that it was asked by, so the client is the first untrusted one from the end.
        for hop in reversed(hops):
            named = parse_address(hop.decode("latin-1"))
            if named is None:
                return address  # a trusted proxy does not write what is no address
            address = str(named)
            if not self.is_trusted(address):
                break
        return address

    def host(self, scope: Scope) -> str:
        """The host to count attempts against."""
        return self.host_of(self.of(scope))

    def host_of(self, address: str) -> str:
        """The host that an address belongs to."""
        found = parse_address(address)
        if isinstance(found, IPv6Address):
            return str(IPv6Network((found, _IPV6_HOST_BITS), strict=False).network_address)
        return address if found is None else str(found)

    def is_trusted(self, address: str) -> bool:
        """Whether the address is one of the trusted proxies'."""
        found = parse_address(address) if self._trusted else None
        return found is not None and any(found in network for network in self._trusted)


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """An address as peers and proxies write it: `a.b.c.d`, `a.b.c.d:port`, `v6`, `[v6]:port`, `v6%zone`, mapped or not.

    None for what is no address.
    """
    text = text.strip()
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port(f":{port}"):
            return None
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def normalised(address: str) -> str:
    """The one way to write an address; what is none stays as it is."""
    if ":" not in address:  # IPv4, as the kernel writes it
        return address
    found = parse_address(address)
    return address if found is None else str(found)


def _is_port(text: str) -> bool:
    return text.startswith(":") and text[1:].isascii() and text[1:].isdigit()


def _unmapped_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
