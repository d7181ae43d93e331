"""Which upstream, and which of its keys, is worth asking. No I/O; `now_s` is a monotonic time that the caller gives.

    Breaker   closed --(failures in a row)--> open --(after open_s)--> half-open --(one probe)--> closed or open
    KeyRing   keys in turn; one that was refused (401, 402, 429) rests for a while, or until its file has another secret

State that changes: all objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

_FINGERPRINT_DIGITS: Final = 16
_LOOK_AGAIN_S: Final = 1.0


class Condition(StrEnum):
    """A breaker's state."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Opens after `failures` failures in a row, for `open_s`; then lets one probe through at a time."""

    def __init__(self, failures: int, open_s: float) -> None:
        self._limit = failures
        self._open_s = open_s
        self._failed = 0
        self._open_until_s = 0.0
        self._probing = False

    def condition(self, now_s: float) -> Condition:
        """The state now."""
        if self._failed < self._limit:
            return Condition.CLOSED
        return Condition.OPEN if now_s < self._open_until_s else Condition.HALF_OPEN

    def wait_s(self, now_s: float) -> float:
        """Seconds until it lets a request through; 0 where it does."""
        return max(0.0, self._open_until_s - now_s) if self._failed >= self._limit else 0.0

    def allows(self, now_s: float) -> bool:
        """Whether a request may go; in half-open, taking the one place of the probe."""
        if self._failed < self._limit:
            return True
        if now_s < self._open_until_s or self._probing:
            return False
        self._probing = True
        return True

    def succeeded(self) -> bool:
        """The upstream answered. Whether that has closed the breaker."""
        closed, self._failed = self._failed >= self._limit, 0
        self._probing = False
        return closed

    def failed(self, now_s: float) -> bool:
        """The upstream could not be reached, broke off, or is down by its own word. Whether that opened the breaker."""
        self._probing = False
        self._failed += 1
        if self._failed >= self._limit:
            self._open_until_s = now_s + self._open_s
        return self._failed == self._limit

    def released(self) -> None:
        """A request ended without telling anything (its client left): the probe's place is free again."""
        self._probing = False


class UpstreamKey:
    """One key of the gateway's own at an upstream. `number` is its place in the configuration, for logs.

    `reload` gives the secret as it stands now, or raises ValueError: where the operator can change it in its file.
    State that changes: the secret, and how long it rests.
    """

    def __init__(self, number: int, secret: str, reload: Callable[[], str] | None = None) -> None:
        self.number = number
        self.rests_until_s = 0.0
        self._reload = reload
        self._look_again_s = 0.0
        self._take(secret)

    def _take(self, secret: str) -> None:
        self.authorization = b"Bearer " + secret.encode()
        self.fingerprint = hashlib.sha256(secret.encode()).hexdigest()[:_FINGERPRINT_DIGITS]

    def renew(self) -> bool:
        """Reads the secret again; whether it is another one, which does not rest."""
        if self._reload is None:
            return False
        before = self.authorization
        try:
            self._take(self._reload())
        except ValueError:
            return False  # half written, or gone: what is known stays
        if self.authorization == before:
            return False
        self.rests_until_s = 0.0
        return True

    def usable(self, now_s: float) -> bool:
        """Whether it does not rest. One that does is read again, once a second at most."""
        if self.rests_until_s <= now_s:
            return True
        if self._reload is None or now_s < self._look_again_s:
            return False
        self._look_again_s = now_s + _LOOK_AGAIN_S
        return self.renew()


class KeyRing:
    """The keys of one upstream, used in turn."""

    def __init__(self, keys: tuple[UpstreamKey, ...]) -> None:
        self.keys = keys
        self._next = 0

    def candidates(self, now_s: float) -> Sequence[UpstreamKey]:
        """Keys that do not rest, the next in turn first."""
        keys = self.keys
        if len(keys) == 1:
            return keys if keys[0].usable(now_s) else ()
        start, self._next = self._next, (self._next + 1) % len(keys)
        in_turn = keys[start:] + keys[:start]
        return [key for key in in_turn if key.usable(now_s)]
