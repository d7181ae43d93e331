"""One upstream: its transport, its health, its keys.

attempt(...) -> Answer     sends one request with one key; raises UpstreamFault
attempt_on_socket(...)     sends a turn of a client's WebSocket over a WebSocket, if the upstream has them
note_answer / note_fault   update health and keys by the result

 answer               | health (health.py)          | key                                                              |
----------------------|-----------------------------|------------------------------------------------------------------|
 2xx, 3xx, 4xx        | the model answers           | -                                                                |
 401, 402             | the model answers           | rests for all models, for `key_rest_s` or until its file has a   |
                      |                             | new secret                                                       |
 429                  | the model answers           | rests for this model, for the time in Retry-After or 5 s, at     |
                      |                             | most `key_rest_s`                                                |
 5xx, a broken answer | the model fails             | -                                                                |
 no connection, TLS   | the whole upstream fails    | -                                                                |
 no answer in time    | the model fails, and the    | -                                                                |
                      | upstream too, if it was     |                                                                  |
                      | silent meanwhile            |                                                                  |
 pool full, own disk  | -                           | -                                                                |

A 429 with the code `insufficient_quota` concerns the gateway's own account and counts as a 402.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final, Literal

import structlog

from gateway.concurrency.disk_body import SentBody
from gateway.protocol.timestamps import iso_time
from gateway.types import Body, Headers
from gateway.upstream.health import Change, Health, KeyRing, UpstreamKey
from gateway.upstream.transport import Answer, FaultKind, Progress, Transport, UpstreamFault
from gateway.upstream.websocket_pool import TurnTransport, UpstreamSockets
from gateway.upstream.websocket_steering import SteeringTransport

_SERVER_ERROR: Final = 500
RATE_LIMITED: Final = 429
ACCOUNT_REFUSED: Final = (401, 402)
"""The statuses with which a provider refuses the gateway's own key or account."""
_UNREACHABLE: Final = frozenset({FaultKind.CONNECT, FaultKind.TLS, FaultKind.CONNECT_TIMEOUT})
_GATEWAY_FAULTS: Final = frozenset({FaultKind.POOL_FULL, FaultKind.BODY_LOST})
"""Faults of the gateway itself, which do not concern the upstream."""
_AFTER_END_S: Final = 1.0
"""Whatever follows the event that ends an answer, such as `[DONE]`, arrives within this time."""
_DEFAULT_REST_S: Final = 5.0
_MAX_REFUSED_FIELDS: Final = 1000
"""How many pairs of a model and a refused field are remembered per upstream."""


@dataclass(frozen=True, slots=True)
class UpstreamPolicy:
    """The operator's configuration of one upstream. `operations`: the names of those that it offers; empty: all.

    `ask_for_cost`: it reports the cost of a request if the body asks for it.
    """

    max_answer_bytes: int
    max_event_bytes: int
    max_answer_values: int
    on_client_leave: Literal["abort", "drain"]
    drain_timeout_s: float
    key_rest_s: float
    end_wait_s: float
    operations: frozenset[str] = frozenset()
    ask_for_cost: bool = False

    def max_end_wait_s(self, *, has_ended: bool) -> float:
        """Returns how long a stream is read on after its answer has ended, or after it may have ended."""
        return min(self.end_wait_s, _AFTER_END_S) if has_ended else self.end_wait_s


@dataclass(frozen=True, slots=True)
class RequestAdditions:
    """Headers and query that requests to one upstream have in addition. Header names are in lower case.

    `forward`: names of client headers that are also passed on; a "*" at the end stands for any rest. `headers`: sent
    instead of the client's headers with the same names. `query`: `name=value&...`, added to every target.
    """

    forward: tuple[bytes, ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()
    query: bytes = b""

    def forwarded(self, headers: Headers, client_headers: Headers) -> Headers:
        """Returns the headers together with the client's headers that only this upstream gets."""
        known = {name for name, _ in headers}
        return headers + [header for header in client_headers if header[0] not in known and self._forwards(header[0])]

    def apply(self, headers: Headers, target: bytes) -> tuple[Headers, bytes]:
        """Returns headers and target with the additions."""
        own = {name for name, _ in self.headers}
        headers = [*(header for header in headers if header[0] not in own), *self.headers]
        if not self.query:
            return headers, target
        return headers, target + (b"&" if b"?" in target else b"?") + self.query

    def _forwards(self, name: bytes) -> bool:
        return any(name == one or (one.endswith(b"*") and name.startswith(one[:-1])) for one in self.forward)


class Upstream:
    """One provider, as requests use it. `address` is its host and port, for traces.

    `sockets`: its WebSocket connections, or None if it is not reached by WebSocket.
    Mutable: `enabled` and `taken_out`, "" or by whom and since when, which operators set; and the additions to a body
    that each model refuses.
    """

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        transport: Transport,
        keys: KeyRing,
        health: Health,
        policy: UpstreamPolicy,
        additions: RequestAdditions | None = None,
        sockets: UpstreamSockets | None = None,
    ) -> None:
        self.name = name
        self.address = address
        self.transport = transport
        self.keys = keys
        self.health = health
        self.policy = policy
        self.additions = additions
        self.sockets = sockets
        self.enabled = True
        self.taken_out = ""
        self._refused: set[tuple[str, str]] = set()
        self._last_fault = ""
        self._log = structlog.get_logger("gateway.upstream")

    def attempt(
        self,
        key: UpstreamKey,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: Body | SentBody,
        progress: Progress | None = None,
    ) -> Awaitable[Answer]:
        """Sends one request with one of this upstream's keys. Raises UpstreamFault."""
        headers = [*headers, key.header]
        if self.additions is not None:
            headers, target = self.additions.apply(headers, target)
        return self.transport.send(method, target, headers, body, progress)

    async def attempt_on_socket(
        self,
        transport: TurnTransport | SteeringTransport,
        key: UpstreamKey,
        target: bytes,
        headers: Headers,
        body: Body,
        progress: Progress | None = None,
    ) -> Answer:
        """Sends a turn of a client's WebSocket over a WebSocket, or else by POST. Raises UpstreamFault."""
        sent_headers, sent_target = [*headers, key.header], target
        if self.additions is not None:
            sent_headers, sent_target = self.additions.apply(sent_headers, sent_target)
        try:
            answer = await transport.send(self.sockets, key.fingerprint, sent_target, sent_headers, body, progress)
        except UpstreamFault as fault:
            if transport.turn is not None:
                transport.results.append((self.name, fault.kind.value))
            raise
        if answer is not None and transport.turn is not None:
            transport.results.append((self.name, str(answer.status)))
        return answer or await self.transport.send(b"POST", sent_target, sent_headers, body, progress)

    async def close(self) -> None:
        """Closes all connections. Answers that are being read end with CUT. Idempotent."""
        if self.sockets is not None:
            self.sockets.close()
        await self.transport.close()

    @property
    def connections(self) -> tuple[int, int]:
        """The number of open connections, and how many of them are idle."""
        transport, sockets = self.transport, self.sockets
        opened, idle = transport.open_connections, transport.idle_connections
        return (opened, idle) if sockets is None else (opened + len(sockets), idle + sockets.idle)

    def offers(self, operation: frozenset[str]) -> bool:
        """Whether the upstream offers an operation, which is given by all names that stand for it."""
        offered = self.policy.operations
        return not offered or not offered.isdisjoint(operation)

    def refuses(self, model: str, field: str) -> bool:
        """Whether this model has refused a field. The field is not added again until the gateway restarts."""
        return (model, field) in self._refused

    def note_refused(self, model: str, field: str) -> None:
        """Remembers that this model refuses a field."""
        if len(self._refused) < _MAX_REFUSED_FIELDS:
            self._refused.add((model, field))
        self._log.info("upstream_refuses_field", upstream=self.name, model=model, field=field)

    def note_answer(self, key: UpstreamKey, model: str, status: int, retry_after_s: float | None, now_s: float) -> None:
        """Notes the answer to a request for `model`, which is the upstream's own name for it."""
        if status >= _SERVER_ERROR:
            self._last_fault = f"status {status}"
            self._log_opened(self.health.failed(model, now_s, answered=True), model, f"status {status}")
            return
        change = self.health.answered(model, now_s)
        if change.whole:
            self._log.info("upstream_breaker_closed", upstream=self.name)
        if change.model:
            self._log.info("upstream_model_breaker_closed", upstream=self.name, model=model)
        if status in ACCOUNT_REFUSED:
            if not key.renew():
                rest_s = self.policy.key_rest_s
                self._log_rest(key, status, rest_s, was_resting=key.rests_until_s > now_s)
                key.rest(now_s + rest_s)
        elif status == RATE_LIMITED:
            rest_s = min(_DEFAULT_REST_S if retry_after_s is None else retry_after_s, self.policy.key_rest_s)
            self._log_rest(key, status, rest_s, was_resting=key.resting_until_s(model) > now_s, model=model)
            key.rest_model(model, now_s + rest_s)

    def note_fault(self, fault: UpstreamFault, model: str, began_s: float, now_s: float) -> None:
        """Notes that a request for `model`, started at `began_s`, got no answer."""
        health, kind = self.health, fault.kind
        self._last_fault = str(fault)
        if kind in _GATEWAY_FAULTS:
            health.released(model)
        elif kind in _UNREACHABLE:
            self._log_opened(health.unreachable(now_s), model, kind.value)
        elif kind is FaultKind.FIRST_BYTE_TIMEOUT:
            self._log_opened(health.timed_out(model, began_s, now_s), model, kind.value)
        else:
            self._log_opened(health.failed(model, now_s, answered=False), model, kind.value)

    def unavailable_because(self, model: str, now_s: float) -> str:
        """Returns why requests for `model` are not sent here now, for operators; "" if they are."""
        if not self.enabled:
            return f"taken out {self.taken_out}" if self.taken_out else "taken out by an operator"
        whose, wait_s, opened_s = f"the breaker of {model}", 0.0, 0.0
        for condition in self.health.models(now_s):
            if condition.model == model:
                wait_s, opened_s = condition.wait_s, condition.opened_s
        whole = self.health.whole
        if (whole_s := whole.wait_s(now_s)) >= wait_s and whole.condition(now_s) != "closed":
            whose, wait_s, opened_s = "its breaker", whole_s, whole.opened_s
        if wait_s or whose == "its breaker":
            since = _clock_time(opened_s - now_s)
            return f"{whose} is open since {since}, the next try is in {wait_s:.1f} s (last fault: {self._last_fault})"
        rest_s = min(key.resting_until_s(model) for key in self.keys.keys) - now_s
        return f"all of its keys rest, until {_clock_time(rest_s)}" if rest_s > 0 else ""

    def _log_opened(self, change: Change, model: str, reason: str) -> None:
        if change.whole:
            self._log.warning("upstream_breaker_open", upstream=self.name, reason=reason)
        if change.model:
            self._log.warning("upstream_model_breaker_open", upstream=self.name, model=model, reason=reason)

    def _log_rest(self, key: UpstreamKey, status: int, rest_s: float, *, was_resting: bool, **more: str) -> None:
        if rest_s and not was_resting:  # other requests that were in flight report the same
            self._log.warning(
                "upstream_key_rests", upstream=self.name, key=key.number, status=status, rest_s=rest_s, **more
            )


def _clock_time(from_now_s: float) -> str:
    """Returns the time of the clock that is so many seconds from now."""
    return iso_time(int((time.time() + from_now_s) * 1000))
