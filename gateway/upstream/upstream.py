"""One upstream: its transport, its health, its keys.

attempt(...) -> Answer     one request with one key; raises UpstreamFault
note_answer / note_fault   what the breaker and the keys learn from it

answer          breaker    key
2xx, 3xx, 4xx   success    -
401, 402        success    rests `key_rest_s`, unless its file has a new one
429             success    rests for its Retry-After, 5 s where it has none, bounded by `key_rest_s`
5xx             failure    -
pool full       -          -
other fault     failure    -
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final, Literal

import structlog

from gateway.types import Body, Headers
from gateway.upstream.health import Breaker, KeyRing, UpstreamKey
from gateway.upstream.transport import Answer, FaultKind, Transport

_SERVER_ERROR: Final = 500
_RATE_LIMITED: Final = 429
_KEY_REFUSED: Final = (401, 402)
_UNTOLD_REST_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class UpstreamPolicy:
    """What an operator chose for one upstream."""

    max_answer_bytes: int
    max_event_bytes: int
    on_client_leave: Literal["abort", "drain"]
    drain_timeout_s: float
    key_rest_s: float


class Upstream:
    """One provider, as the request line uses it; `address`: its host and port, for traces.

    State that changes: `enabled`, which an operator decides.
    """

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        transport: Transport,
        keys: KeyRing,
        breaker: Breaker,
        policy: UpstreamPolicy,
    ) -> None:
        self.name = name
        self.address = address
        self.transport = transport
        self.keys = keys
        self.breaker = breaker
        self.policy = policy
        self.enabled = True
        self._log = structlog.get_logger("gateway.upstream")

    def attempt(
        self, key: UpstreamKey, method: bytes, target: bytes, headers: Headers, body: Body
    ) -> Awaitable[Answer]:
        """One request with one of this upstream's keys. Raises UpstreamFault."""
        return self.transport.send(method, target, [*headers, (b"authorization", key.authorization)], body)

    def note_answer(self, key: UpstreamKey, status: int, retry_after_s: float | None, now_s: float) -> None:
        """Learns from an answer's head."""
        if status >= _SERVER_ERROR:
            self._failed(now_s, f"status {status}")
        elif self.breaker.succeeded():
            self._log.info("upstream_breaker_closed", upstream=self.name)
        if status in _KEY_REFUSED:
            if not key.renew():
                self._rest(key, status, self.policy.key_rest_s, now_s)
        elif status == _RATE_LIMITED:
            rest_s = _UNTOLD_REST_S if retry_after_s is None else retry_after_s
            self._rest(key, status, min(rest_s, self.policy.key_rest_s), now_s)

    def note_fault(self, kind: FaultKind, now_s: float) -> None:
        """Learns from a request that got no answer."""
        if kind is FaultKind.POOL_FULL:
            self.breaker.released()
        else:
            self._failed(now_s, kind.value)

    def _failed(self, now_s: float, reason: str) -> None:
        if self.breaker.failed(now_s):
            self._log.warning("upstream_breaker_open", upstream=self.name, reason=reason)

    def _rest(self, key: UpstreamKey, status: int, rest_s: float, now_s: float) -> None:
        if rest_s and key.rests_until_s <= now_s:  # requests that were under way say it once more
            self._log.warning("upstream_key_rests", upstream=self.name, key=key.number, status=status, rest_s=rest_s)
        key.rests_until_s = now_s + rest_s
