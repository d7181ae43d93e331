"""Bounds what the connections of one worker take together, so that nobody without a key can exhaust the worker.

ConnectionLimits       the bounds, from the settings
ConnectionBudget       counts connections, also by address, and the unverified bytes that they hold

Unverified bytes belong to requests whose key has not been checked: incomplete heads and bodies, requests that wait
behind another one, and answers that the client does not read. When they exceed the bound, the connections that hold
most of them are closed. A client that sends an ordinary request and reads its answer holds almost none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from gateway.errors import GatewayError
from gateway.http.client_address import ClientAddresses
from gateway.types import Scope

_TARGET_EIGHTHS: Final = 7
"""Connections are closed until 7/8 of the bound are held. At the bound itself, each byte would start another search."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of a worker's connections to its clients."""

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
        """Returns the number that it holds now."""

    def drop(self) -> None:
        """Closes it at once."""


class ConnectionBudget:
    """The budget of one worker. Mutable: the number of connections, also by address, and the bytes that they hold."""

    def __init__(self, limits: ConnectionLimits, addresses: ClientAddresses) -> None:
        self.limits = limits
        self.unverified_bytes = 0
        self.is_scarce = False  # half of the bound is used: a body is read only after its key was checked
        self._addresses = addresses
        self._connections = 0
        self._by_address: dict[str, int] = {}
        self._held: dict[Holder, int] = {}

    def counted_address(self, peer: str) -> str | None:
        """Returns the address that a connection counts against.

        None for a connection of a trusted proxy, each of whose requests counts against the address it is forwarded for.
        """
        return None if self._addresses.is_trusted(peer) else self._addresses.host_of(peer)

    def forwarded_address(self, scope: Scope) -> str:
        """Returns the address that a request of a trusted proxy counts against."""
        return self._addresses.host(scope)

    def admit(self, address: str | None) -> GatewayError | None:
        """Counts a connection until `leave`, even if it is refused. Returns the refusal, if any."""
        self._connections += 1
        refusal = None if address is None else self.begin(address)
        if self._connections > self.limits.max_connections:
            return _too_many(self.limits.max_connections, "worker")
        return refusal

    def leave(self, address: str | None, holder: Holder) -> None:
        """Takes back what `admit` counted, when the connection has ended."""
        self._connections -= 1
        self.hold(holder, 0)
        if address is not None:
            self.end(address)

    def begin(self, address: str) -> GatewayError | None:
        """Counts a connection or a forwarded request against its address until `end`. Returns the refusal, if any."""
        count = self._by_address.get(address, 0) + 1
        self._by_address[address] = count
        limit = self.limits.max_connections_per_address
        return _too_many(limit, "address") if count > limit else None

    def end(self, address: str) -> None:
        """Takes back what `begin` counted."""
        left = self._by_address[address] - 1
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]

    def hold(self, holder: Holder, size: int) -> None:
        """Notes how many bytes a connection holds. If all of them hold too many, closes those that hold most."""
        self.unverified_bytes += size - self._held.pop(holder, 0)
        if size:
            self._held[holder] = size
        if self.unverified_bytes > self.limits.max_unverified_bytes:
            self._make_room()
        self.is_scarce = self.unverified_bytes > self.limits.max_unverified_bytes // 2

    def _make_room(self) -> None:
        held = {holder: holder.unverified_bytes() for holder in self._held}  # some may hold less by now
        self._held = {holder: size for holder, size in held.items() if size}
        self.unverified_bytes = sum(held.values())
        target = self.limits.max_unverified_bytes
        if self.unverified_bytes <= target:
            return
        for holder in sorted(self._held, key=self._held.__getitem__, reverse=True):
            if self.unverified_bytes <= target // 8 * _TARGET_EIGHTHS:
                return
            self.unverified_bytes -= self._held.pop(holder)
            holder.drop()


def _too_many(limit: int, scope: str) -> GatewayError:
    return GatewayError(
        "too_many_connections",
        f"More than {limit} connections are open here{' from this address' if scope == 'address' else ''}.",
        wait_ms=1000,
        explain={"limit": limit, "scope": scope, "limit_source": "gateway"},
    )
