"""Who knocks, and who has knocked too often with a wrong key.

    address(scope)      the client's address: the peer's, or what trusted proxies say in X-Forwarded-For
    host(scope)         the same for counting: an IPv6 client as its /64
    judge(scope, error) a 401 beyond `failures_per_minute` from one address becomes 429 too_many_failures

A valid key is never held up: a failure is counted when it is answered, and nothing is looked up before. An IPv6 client
is its /64, which is what one host is given. Each worker counts for itself.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from gateway.downstream import Scope
from gateway.errors import GatewayError

MOST_ADDRESSES: Final = 10_000
"""Addresses that are remembered; about 2 MB. A flood from more of them forgets the oldest."""
_MINUTE_S: Final = 60.0
_FAILURES: Final = frozenset({"invalid_api_key", "invalid_admin_key"})
_IPV6_HOST: Final = 64
_FORWARDED: Final = b"x-forwarded-for"


class Doorman:
    """One worker's. State that changes: the failures of each address in its running minute."""

    def __init__(
        self,
        trusted_proxies: Iterable[str],
        failures_per_minute: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trusted: tuple[IPv4Network | IPv6Network, ...] = tuple(map(ip_network, trusted_proxies))
        self._most = failures_per_minute
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def address(self, scope: Scope) -> str:
        """The client's address; "" on a unix socket without a proxy that says more."""
        peer = scope.get("client")
        address: str = peer[0] if peer else ""
        if not self._trusted or not self._is_trusted(address):
            return address
        hops = [hop.strip() for name, value in scope["headers"] if name == _FORWARDED for hop in value.split(b",")]
        for hop in reversed(hops):  # each proxy appends who it was asked by: from the end, the first stranger
            named = hop.decode("latin-1")
            try:
                ip_address(named)
            except ValueError:
                return address  # no address: what a proxy that is trusted does not write
            address = named
            if not self._is_trusted(named):
                break
        return address

    def host(self, scope: Scope) -> str:
        """Whom to count attempts against."""
        return _host(self.address(scope))

    def judge(self, scope: Scope, error: GatewayError) -> GatewayError:
        """The error to answer with."""
        if error.code not in _FAILURES or not self._most:
            return error
        host, now_s = self.host(scope), self._clock()
        began_s, count = self._failures.pop(host, (now_s, 0))
        if now_s - began_s >= _MINUTE_S:
            began_s, count = now_s, 0
        self._failures[host] = (began_s, count + 1)
        if len(self._failures) > MOST_ADDRESSES:
            self._failures.popitem(last=False)
        if count < self._most:
            return error
        return GatewayError(
            "too_many_failures",
            f"More than {self._most} requests a minute with a wrong key came from this address.",
            wait_ms=max(1, int((began_s + _MINUTE_S - now_s) * 1000)),
            explain={"limit": self._most, "scope": "address", "limit_source": "gateway"},
        )

    def _is_trusted(self, address: str) -> bool:
        try:
            found = ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._trusted)


def _host(address: str) -> str:
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        return str(IPv6Network((found, _IPV6_HOST), strict=False).network_address)
    return address
