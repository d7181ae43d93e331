"""The values of an admission, and the parser of the reply of `admit_v8`. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from gateway.accounts.entities import View
from gateway.billing.settlement import Hold
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger.refusals import AdmissionRefusal, Demand, to_error
from gateway.protocol.attribution import NOBODY
from gateway.protocol.rate_limit_headers import NO_RATES, Rates

_LATE: Final = b"late"
_CALENDAR: Final = b"calendar"
_FOR_AN_END_USER: Final = ",u"  # scripts/end_users.lua
_COMMON_VALUES: Final = 17  # values that every reply has


class AdmissionRequest(NamedTuple):
    """The input of step 4. `patterns`: the patterns that match the model, the most specific one first.

    `sends_output_bound`: whether the provider gets the bound on the output; None: only if a limit lowers it.
    `operations`: the names that permit the operation, one per line. `free`: only the key and its permissions are
    checked, nothing is reserved, and no limit counts the request. `waits`: it has a place in the queue. `limited`: the
    patterns whose limits count the request, if they differ from `patterns`. `tags`: see `Hold`. `followed_by`: the
    request for which this call is made, and which then goes on under the same idempotency key; "" for none.
    `end_user`: for whom limits of each end user count it (protocol/attribution.py).
    """

    request_id: str
    key: ApiKey
    patterns: tuple[str, ...]
    demand: Demand
    max_output_tokens: int | None
    idempotency_key: str | None = None
    sends_output_bound: bool | None = False
    operations: str = ""
    free: bool = False
    waits: bool = False
    limited: tuple[str, ...] = ()
    tags: str = ""
    followed_by: str = ""
    end_user: str = NOBODY


class Admission(NamedTuple):
    """A request that may run.

    `unchecked`: admitted without the store, by `store.on_failure = "open"`. `cut_at_cap`: its key asks for answers to
    be cut before they cost more than the hold.
    """

    hold: Hold
    rates: Rates
    available_nano_usd: int
    unchecked: bool = False
    cut_at_cap: bool = False


@dataclass(frozen=True, slots=True)
class Preview:
    """The result of a dry run: the admission that would be made, and the limits without it."""

    admission: Admission
    view: View


class AdmissionRefused(GatewayError):
    """A refusal by the admission script, with the rates for the answer's headers.

    `queue_s`: for how long the request may wait in the queue instead; 0: not at all. `ahead`: how many requests are
    before it. `used`: the use of the limit. `day`: see `Hold`.
    """

    rates: Rates = NO_RATES
    queue_s: int = 0
    ahead: int = 0
    used: int = 0
    day: int = -1

    @classmethod
    def of(
        cls, error: GatewayError, rates: Rates, queue_s: int, ahead: int, used: int, day: int = -1
    ) -> AdmissionRefused:
        """Returns the error together with the script's other values."""
        refused = cls(
            error.code,
            error.message,
            param=error.param,
            wait_ms=error.wait_ms,
            explain=error.explain,
            cause=error.cause,
        )
        refused.rates, refused.queue_s, refused.ahead, refused.used, refused.day = rates, queue_s, ahead, used, day
        return refused

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Returns the error's headers and those of the rate limits."""
        return [*super().headers(), *self.rates.headers()]


class AdmissionLate(Exception):
    """The request reached the store after its deadline, so nothing was reserved. `now_ms` is the store's time."""

    def __init__(self, now_ms: int) -> None:
        super().__init__("the admission came too late")
        self.now_ms = now_ms


class CalendarDue(Exception):
    """The ends of the team's periods are not known yet, so nothing was decided. `now_ms` is the store's time."""

    def __init__(self, now_ms: int) -> None:
        super().__init__("the team's calendar must be written first")
        self.now_ms = now_ms


def hold_of(
    request: AdmissionRequest,
    admitted_ms: int,
    *,
    unchecked_secret: str = "",
    counted: str | None = None,
    day: int = -1,
) -> Hold:
    """Returns the hold that a request asks for. `counted` is None where nobody knows which meters count it."""
    (
        request_id,
        key,
        _patterns,
        demand,
        _max_output_tokens,
        idempotency_key,
        _sends,
        _operations,
        free,
        _waits,
        _,
        tags,
        followed_by,
        end_user,
    ) = request
    _model, amount, input_tokens, output_tokens, _worst, _output_field_tokens, _operation = demand
    return Hold(
        request_id,
        key.team_id,
        key.key_id,
        amount,
        input_tokens,
        output_tokens,
        admitted_ms,
        idempotency_key,
        unchecked_secret,
        not free,
        counted or "",
        day,
        tags,
        followed_by != "",
        end_user if counted is None or _FOR_AN_END_USER in counted else "",
    )


def read_admission(reply: list[Any], request: AdmissionRequest) -> Admission:
    """Parses the reply of `admit_v8`. Raises AdmissionRefused, AdmissionLate or CalendarDue."""
    admitted, now_ms, code, scope, limit, used, wait_ms, available, amount, tokens, cut = reply[:11]
    if code == _LATE:
        raise AdmissionLate(now_ms)
    if code == _CALENDAR:
        raise CalendarDue(now_ms)
    rates = Rates(*reply[11:_COMMON_VALUES])
    demand = request.demand
    if tokens != demand.input_tokens + demand.output_tokens:  # a limit has lowered the default bound on the output
        demand = demand._replace(amount_nano_usd=amount, output_tokens=tokens - demand.input_tokens)
        request = request._replace(demand=demand)
    if admitted == 1:
        counted, day = (reply[17].decode(), reply[18]) if len(reply) > _COMMON_VALUES else ("", -1)
        return Admission(hold_of(request, now_ms, counted=counted, day=day), rates, available, cut_at_cap=cut == 1)
    wait = None if wait_ms < 0 else wait_ms
    usd_left, tokens_left, queue_s, ahead, day, pattern, expired, expired_ms = reply[_COMMON_VALUES:]
    refusal = AdmissionRefusal(
        now_ms,
        code.decode(),
        scope.decode(),
        limit,
        used,
        wait,
        available,
        usd_left,
        tokens_left,
        pattern.decode(),
        expired,
        expired_ms,
    )
    raise AdmissionRefused.of(to_error(refusal, demand), rates, queue_s, ahead, used, day)
