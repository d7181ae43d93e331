"""The address of a client: that of its connection, or the one that a trusted proxy states in X-Forwarded-For.

addresses.of(scope)     the address itself, for logs
addresses.host(scope)   the host that attempts are counted against: for IPv6 its /64 network, which one host is given

An address has one spelling: an IPv4 address that came over an IPv6 socket (`::ffff:192.0.2.1`) becomes the IPv4
address; ports, brackets and zones are removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from gateway.types import Scope

_IPV6_HOST_BITS: Final = 64
_MAPPED_BITS: Final = 96  # the prefix of an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5)
_FORWARDED: Final = b"x-forwarded-for"


class ClientAddresses:
    """Reads client addresses. `trusted_proxies` are the networks, in CIDR notation, whose X-Forwarded-For is used."""

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        self._trusted = tuple(_unmapped_network(ip_network(network)) for network in trusted_proxies)

    def of(self, scope: Scope) -> str:
        """Returns the client's address. It is "" on a Unix socket if no proxy states one."""
        peer = scope.get("client")
        address: str = normalised(peer[0]) if peer else ""
        if not self._trusted or not self.is_trusted(address):
            return address
        hops = [hop for name, value in scope["headers"] if name == _FORWARDED for hop in value.split(b",")]
        # Each proxy appends the address of its own client. So the client is the last address that is not trusted.
        for hop in reversed(hops):
            named = parse_address(hop.decode("latin-1"))
            if named is None:
                return address  # a trusted proxy writes addresses only: this was not written by one
            address = str(named)
            if not self.is_trusted(address):
                break
        return address

    def host(self, scope: Scope) -> str:
        """Returns the host to count attempts against."""
        return self.host_of(self.of(scope))

    def host_of(self, address: str) -> str:
        """Returns the host that an address belongs to."""
        found = parse_address(address)
        if isinstance(found, IPv6Address):
            return str(IPv6Network((found, _IPV6_HOST_BITS), strict=False).network_address)
        return address if found is None else str(found)

    def is_trusted(self, address: str) -> bool:
        """Returns whether the address belongs to a trusted proxy."""
        found = parse_address(address) if self._trusted else None
        return found is not None and any(found in network for network in self._trusted)


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Parses an address in the forms that sockets and proxies use. Returns None if the text is no address.

    The forms: `a.b.c.d`, `a.b.c.d:port`, `v6`, `[v6]:port`, `v6%zone`; each v6 may be an IPv4-mapped one.
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
    """Returns the one spelling of an address. A text that is no address is returned unchanged."""
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
