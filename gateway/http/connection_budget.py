"""What the connections of one worker may take together, so that nobody without a key can exhaust it.

ConnectionLimits       the bounds, from the settings
ConnectionBudget       how many connections there are, of which addresses, and what they hold for nobody in particular

Unverified bytes are those that no key vouches for: heads and bodies that are still coming, requests that wait behind
another, answers that their client does not read. Beyond the bound the connections that hold most are ended: a client
that sends a usual request and reads its answer holds next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from gateway.errors import GatewayError
from gateway.http.client_address import ClientAddresses
from gateway.types import Scope

_KEPT_OF_8: Final = 7
"""What is left of the bound when connections were ended: looking for the largest is not to happen at every byte."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of a worker's connections to clients."""

    max_head_bytes: int
    max_head_fields: int
    head_timeout_s: float
    write_timeout_s: float
    max_connections: int
    max_connections_per_address: int
    max_unverified_bytes: int


class Holder(Protocol):
    """A connection that holds unverified bytes."""

    def unverified_bytes(self) -> int:
        """What it holds now."""

    def drop(self) -> None:
        """Ends it at once."""


class ConnectionBudget:
    """One worker's. State that changes: connections in all and by address, and what they hold."""

    def __init__(self, limits: ConnectionLimits, addresses: ClientAddresses) -> None:
        self.limits = limits
        self.unverified_bytes = 0
        self.is_scarce = False  # half of the bound is taken: a body is read for a key that is known alone
        self._addresses = addresses
        self._connections = 0
        self._by_address: dict[str, int] = {}
        self._held: dict[Holder, int] = {}

    def counted_address(self, peer: str) -> str | None:
        """What a connection is counted against; None: a trusted proxy's, whose requests are counted one by one."""
        return None if self._addresses.is_trusted(peer) else self._addresses.host_of(peer)

    def forwarded_address(self, scope: Scope) -> str:
        """What a trusted proxy's request is counted against."""
        return self._addresses.host(scope)

    def admit(self, address: str | None) -> GatewayError | None:
        """Counts a connection, which `leave` takes back whether it was refused or not. The refusal, if any."""
        self._connections += 1
        refusal = None if address is None else self.begin(address)
        if self._connections > self.limits.max_connections:
            return _too_many(self.limits.max_connections, "worker")
        return refusal

    def leave(self, address: str | None, holder: Holder) -> None:
        """A connection has ended."""
        self._connections -= 1
        self.hold(holder, 0)
        if address is not None:
            self.end(address)

    def begin(self, address: str) -> GatewayError | None:
        """Counts a connection, or a forwarded request, against its address, until `end`. The refusal, if any."""
        count = self._by_address.get(address, 0) + 1
        self._by_address[address] = count
        most = self.limits.max_connections_per_address
        return _too_many(most, "address") if count > most else None

    def end(self, address: str) -> None:
        """Takes back what `begin` counted."""
        left = self._by_address[address] - 1
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]

    def hold(self, holder: Holder, size: int) -> None:
        """A connection holds so many bytes. Where all of them hold too many, the largest are ended."""
        self.unverified_bytes += size - self._held.pop(holder, 0)
        if size:
            self._held[holder] = size
        if self.unverified_bytes > self.limits.max_unverified_bytes:
            self._make_room()
        self.is_scarce = self.unverified_bytes > self.limits.max_unverified_bytes // 2

    def _make_room(self) -> None:
        held = {holder: holder.unverified_bytes() for holder in self._held}  # some may have sent theirs since
        self._held = {holder: size for holder, size in held.items() if size}
        self.unverified_bytes = sum(held.values())
        target = self.limits.max_unverified_bytes
        if self.unverified_bytes <= target:
            return
        for holder in sorted(self._held, key=self._held.__getitem__, reverse=True):
            if self.unverified_bytes <= target // 8 * _KEPT_OF_8:
                return
            self.unverified_bytes -= self._held.pop(holder)
            holder.drop()


def _too_many(most: int, scope: str) -> GatewayError:
    return GatewayError(
        "too_many_connections",
        f"More than {most} connections are open here{' from this address' if scope == 'address' else ''}.",
        wait_ms=1000,
        explain={"limit": most, "scope": scope, "limit_source": "gateway"},
    )
