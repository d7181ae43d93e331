"""Decides which upstream, model and key may be used. No I/O; `now_s` is a monotonic time that the caller passes.

    Breaker    closed --(failures in a row)--> open --(after open_s)--> half-open --(one probe)--> closed or open
    Health     one circuit breaker for the whole upstream, and one for each model that fails
    KeyRing    keys in turn; a refused key rests, for all models or for one, or until its file has another secret

 what happened                            | the model's breaker | the whole upstream's breaker                        |
------------------------------------------|---------------------|-----------------------------------------------------|
 an answer below 500                      | closes              | closes                                              |
 5xx, a broken answer                     | a failure           | a failure if another model has failed as well       |
 cannot be reached, TLS                   | -                   | a failure                                           |
 no answer in time                        | a failure           | a failure, unless it answered others meanwhile      |

The failures of one model never open the breaker of the whole upstream: of a row of failures, each model counts for at
most half. A model whose own breaker is open takes no probe of the whole upstream, so that the request of another model
can close that breaker.

All objects are mutable.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

_FINGERPRINT_DIGITS: Final = 16
_RELOAD_INTERVAL_S: Final = 1.0


Auth = Literal["bearer", "api-key", "x-api-key"]
AUTH_HEADERS: Final[Mapping[Auth, tuple[bytes, bytes]]] = MappingProxyType(
    {"bearer": (b"authorization", b"Bearer "), "api-key": (b"api-key", b""), "x-api-key": (b"x-api-key", b"")}
)
"""The header that carries a key, and what stands before the key in it."""


class Condition(StrEnum):
    """The state of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """A circuit breaker.

    It opens after `failures` failures in a row, for `open_s`, and then permits one probe at a time.

    If a probe has no result after `open_s`, the next request becomes a probe too. `opened_s` is when it last opened.
    """

    __slots__ = ("_failed", "_limit", "_open_s", "_open_until_s", "_probing_until_s", "opened_s")

    def __init__(self, failures: int, open_s: float) -> None:
        self.opened_s = 0.0
        self._limit = failures
        self._open_s = open_s
        self._failed = 0
        self._open_until_s = 0.0
        self._probing_until_s = 0.0

    def condition(self, now_s: float) -> Condition:
        """Returns the present state."""
        if self._failed < self._limit:
            return Condition.CLOSED
        return Condition.OPEN if now_s < self._open_until_s else Condition.HALF_OPEN

    def wait_s(self, now_s: float) -> float:
        """Returns the seconds until a request is permitted, or 0 if it is permitted now."""
        return max(0.0, self._open_until_s - now_s) if self._failed >= self._limit else 0.0

    def allows(self, now_s: float) -> bool:
        """Whether a request is permitted. While half-open, this takes the place of the probe."""
        if self._failed < self._limit:
            return True
        if now_s < self._open_until_s or now_s < self._probing_until_s:
            return False
        self._probing_until_s = now_s + self._open_s
        return True

    def succeeded(self) -> bool:
        """Notes an answer. Returns whether that closed the breaker."""
        closed, self._failed = self._failed >= self._limit, 0
        self._probing_until_s = 0.0
        return closed

    def failed(self, now_s: float) -> bool:
        """Notes a missing or broken answer. Returns whether that opened the breaker."""
        self._probing_until_s = 0.0
        self._failed += 1
        if self._failed >= self._limit:
            self._open_until_s = now_s + self._open_s
        if self._failed == self._limit:
            self.opened_s = now_s
        return self._failed == self._limit

    def trip(self, now_s: float) -> bool:
        """Opens the breaker at once. Returns whether it was closed before."""
        closed = self._failed < self._limit
        if closed:
            self.opened_s = now_s
        self._failed = max(self._failed, self._limit)
        self._probing_until_s = 0.0
        self._open_until_s = now_s + self._open_s
        return closed

    def released(self) -> None:
        """Frees the place of the probe, because a request ended without a result (its client left)."""
        self._probing_until_s = 0.0


class ModelCondition(NamedTuple):
    """A model that has failed since it last answered. `wait_s` as in `Breaker.wait_s`; `opened_s` of its breaker."""

    model: str
    condition: Condition
    wait_s: float
    opened_s: float


class Change(NamedTuple):
    """The breakers that an observation opened or closed, for the log."""

    model: bool = False
    whole: bool = False


NO_CHANGE: Final = Change()


class Health:
    """The health of one upstream.

    A model is kept from its first failure to its next answer, at most `max_models` of them.

    Args:
        failures: number in a row after which a breaker opens.
        open_s: how long it stays open.
        max_models: models that are distinguished; beyond that, the one that failed first is forgotten.
    """

    __slots__ = ("_answered_s", "_failures", "_failures_by_model", "_max_models", "_models", "_open_s", "whole")

    def __init__(self, failures: int, open_s: float, max_models: int) -> None:
        self.whole = Breaker(failures, open_s)
        self._failures = failures
        self._open_s = open_s
        self._max_models = max_models
        self._models: OrderedDict[str, Breaker] = OrderedDict()
        self._failures_by_model: dict[str, int] = {}  # since the upstream last answered any request
        self._answered_s = float("-inf")

    def allows(self, model: str, now_s: float) -> bool:
        """Whether a request for the model is permitted. It may take the place of a probe."""
        breaker = self._models.get(model) if self._models else None
        if breaker is None or breaker.condition(now_s) is Condition.CLOSED:
            return self.whole.allows(now_s)
        return self.whole.condition(now_s) is not Condition.OPEN and breaker.allows(now_s)

    def wait_s(self, model: str, now_s: float) -> float:
        """Returns the seconds until a request for the model is permitted, or 0 if it is permitted now."""
        breaker = self._models.get(model)
        whole_s = self.whole.wait_s(now_s)
        return whole_s if breaker is None else max(whole_s, breaker.wait_s(now_s))

    def models(self, now_s: float) -> Iterator[ModelCondition]:
        """Yields the models that have failed since they last answered."""
        for model, breaker in self._models.items():
            yield ModelCondition(model, breaker.condition(now_s), breaker.wait_s(now_s), breaker.opened_s)

    def answered(self, model: str, now_s: float) -> Change:
        """Notes an answer below 500."""
        self._answered_s = now_s
        if self._failures_by_model:
            self._failures_by_model.clear()
        breaker = self._models.pop(model, None) if self._models else None
        whole = self.whole.succeeded()
        return Change(breaker is not None and breaker.succeeded(), whole)

    def failed(self, model: str, now_s: float, *, answered: bool) -> Change:
        """Notes a 5xx or a broken answer. `answered` says whether there was an HTTP answer at all."""
        if answered:
            self._answered_s = now_s
        return Change(self._breaker(model).failed(now_s), self._count_for_whole(model, now_s))

    def timed_out(self, model: str, began_s: float, now_s: float) -> Change:
        """Notes that a request that started at `began_s` got no answer in time."""
        opened = self._breaker(model).failed(now_s)
        if self._answered_s >= began_s:  # the upstream worked: it is this model that is slow
            return Change(opened, self._count_for_whole(model, now_s))
        return Change(opened, self.whole.failed(now_s))

    def unreachable(self, now_s: float) -> Change:
        """Notes that no connection was possible."""
        return Change(whole=self.whole.failed(now_s))

    def released(self, model: str) -> None:
        """Notes that a request ended without a result."""
        self.whole.released()
        if (breaker := self._models.get(model)) is not None:
            breaker.released()

    def _breaker(self, model: str) -> Breaker:
        found = self._models.get(model)
        if found is None:
            if len(self._models) >= self._max_models:
                self._models.popitem(last=False)
            found = self._models[model] = Breaker(self._failures, self._open_s)
        return found

    def _count_for_whole(self, model: str, now_s: float) -> bool:
        """Counts a model's failure for the whole upstream. Returns whether that opened the upstream's breaker."""
        failures, max_per_model = self._failures_by_model, -(-self._failures // 2)
        before = failures.get(model, 0)
        if before == max_per_model or (not before and len(failures) >= self._max_models):
            self.whole.released()
            return False
        failures[model] = before + 1
        if len(failures) > 1 and sum(failures.values()) >= self._failures:
            return self.whole.trip(now_s)
        self.whole.released()
        return False


class UpstreamKey:
    """One of the gateway's own keys at an upstream. `number` is its place in the configuration, for logs.

    `reload` reads the secret again if the operator can change it in a file, or raises ValueError. Mutable: the secret,
    and how long it rests, for all models or for one.
    """

    def __init__(
        self,
        number: int,
        secret: str,
        reload: Callable[[], str] | None = None,
        *,
        max_models: int = 1024,
        auth: Auth = "bearer",
    ) -> None:
        self.number = number
        self.rests_until_s = 0.0
        self._models: OrderedDict[str, float] = OrderedDict()  # until when it rests for a model; bounded
        self._max_models = max_models
        self._reload = reload
        self._auth = AUTH_HEADERS[auth]
        self._next_reload_s = 0.0
        self._take(secret)

    def _take(self, secret: str) -> None:
        self.header = self._auth[0], self._auth[1] + secret.encode()
        self.fingerprint = hashlib.sha256(secret.encode()).hexdigest()[:_FINGERPRINT_DIGITS]

    def renew(self) -> bool:
        """Reads the secret again. Returns whether it has changed; a new secret does not rest."""
        if self._reload is None:
            return False
        before = self.header
        try:
            self._take(self._reload())
        except ValueError:
            return False  # the file is incomplete or gone; the known secret stays
        if self.header == before:
            return False
        self.rests_until_s = 0.0
        self._models.clear()
        return True

    def rest(self, until_s: float) -> None:
        """Lets the key rest for all models."""
        self.rests_until_s = until_s

    def rest_model(self, model: str, until_s: float) -> None:
        """Lets the key rest for one model. Beyond `max_models`, the entry that was set first is forgotten."""
        self._models.pop(model, None)
        if len(self._models) >= self._max_models:
            self._models.popitem(last=False)
        self._models[model] = until_s

    def resting_until_s(self, model: str) -> float:
        """Returns until when the key rests for a model."""
        return max(self.rests_until_s, self._models.get(model, 0.0))

    def resting_models(self, now_s: float) -> dict[str, float]:
        """Returns the models for which the key rests, and the remaining seconds."""
        return {model: until_s - now_s for model, until_s in self._models.items() if until_s > now_s}

    def usable(self, model: str, now_s: float) -> bool:
        """Whether the key does not rest for the model.

        The file of a resting key is read again, at most once per second.
        """
        if self.rests_until_s > now_s and not self._renewed(now_s):
            return False
        if not self._models or (until_s := self._models.get(model)) is None:
            return True
        if until_s > now_s:
            return self._renewed(now_s)
        del self._models[model]
        return True

    def _renewed(self, now_s: float) -> bool:
        if self._reload is None or now_s < self._next_reload_s:
            return False
        self._next_reload_s = now_s + _RELOAD_INTERVAL_S
        return self.renew()


class KeyRing:
    """The keys of one upstream, used in turn."""

    def __init__(
        self,
        keys: tuple[UpstreamKey, ...],
        order: Callable[[str, Sequence[UpstreamKey]], Sequence[UpstreamKey]] | None = None,
    ) -> None:
        self.keys = keys
        self.order = order
        self._next = 0

    def candidates(self, model: str, now_s: float, session: str = "") -> Sequence[UpstreamKey]:
        """Returns the keys that do not rest for the model, starting with the next in turn."""
        keys = self.keys
        if len(keys) == 1:
            return keys if keys[0].usable(model, now_s) else ()
        if session and self.order is not None:
            return [key for key in self.order(session, keys) if key.usable(model, now_s)]
        start, self._next = self._next, (self._next + 1) % len(keys)
        in_turn = keys[start:] + keys[:start]
        return [key for key in in_turn if key.usable(model, now_s)]
