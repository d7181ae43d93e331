"""Turns a refusal by `admit_v8` into an error that people and programs can act on. Pure.

    script's code          error                  does waiting help?
    invalid_api_key        401 invalid_api_key    no
    model_not_allowed      403 model_not_allowed  no
    operation_not_allowed  403 operation_not_allowed, no
    max_output_tokens      400 invalid_field      no
    rpm, tpm               429 rate_limit_exceeded, exact to the millisecond; not if the request exceeds the whole limit
    concurrency            429 concurrency_exceeded; for about as long as slots are kept (slot_times.py); not if it is 0
    queue                  429 concurrency_exceeded; other requests wait in the queue, which is full
    budget_*               402 insufficient_quota until the period ends, or old use has left it; `total`: no
    credits                402 insufficient_quota no
    team_paused            402 team_paused        no; an operator or a grant ends the pause
    no_end_user            400 missing_field      no; each end user has limits, and the request names none
    end_users              429 rate_limit_exceeded; no room to count one more; a minute is an estimate
    request_in_progress    409 request_in_progress; one second is an estimate
    already_answered       409 already_answered   no

If several limits refuse a request, the one that takes longest to clear is reported, so that a client which waits for
the stated time succeeds.

A request with an `Idempotency-Key` runs and is charged once per API key. A repetition gets:

    while the first runs      409 request_in_progress with `Retry-After` and the first's `request_id`
    after it was charged      409 already_answered with its `request_id`; the answer itself is not stored
    after it was not charged  (refused, or no provider answered) the repetition runs
    after it expired          (its gateway died) the repetition runs
    of a request that needs a summary first: the same, from the summary's admission on
    remembered for            `ledger.idempotency_ttl_s` from its admission, and again from its end
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, NamedTuple

from gateway.accounts.limit_names import LimitName, period_in_words, read_limit_name
from gateway.billing.hold import WorstCase, affordable_output_tokens
from gateway.billing.money import format_usd
from gateway.errors import GatewayError, JsonScalar
from gateway.identity.api_keys import invalid_api_key
from gateway.protocol.timestamps import iso_time
from gateway.protocol.token_estimates import BYTES_PER_TOKEN
from gateway.protocol.wording import counted


class Demand(NamedTuple):
    """What a request needs to reserve.

    `output_field_tokens`: by how many tokens a bound on its output would lengthen the body; 0 if it states one.
    `operation`: the operation's name.
    """

    model: str
    amount_nano_usd: int
    input_tokens: int
    output_tokens: int
    worst: WorstCase
    output_field_tokens: int = 0
    operation: str = ""


@dataclass(frozen=True, slots=True)
class AdmissionRefusal:
    """The script's refusal. `wait_ms` is None if waiting does not help.

    `usd_left`, `tokens_left`: the least that is available in all credits and budgets, in nano-USD and in tokens.
    `scope`: team, key or end_user. `pattern`: the models of the limit, or "" for all. `expired_nano_usd`: how much of
    the credits has expired since the last grant, and `expired_ms`: when the last of it did; both 0 if nothing has.
    """

    now_ms: int
    code: str
    scope: str
    limit: int
    used: int
    wait_ms: int | None
    available_nano_usd: int
    usd_left: int = 0
    tokens_left: int = 0
    pattern: str = ""
    expired_nano_usd: int = 0
    expired_ms: int = 0

    @property
    def who(self) -> str:
        """Whose limit it is, for people."""
        return self.scope.replace("_", " ")

    @property
    def for_models(self) -> str:
        """A suffix for messages that names the models of the limit, such as " for openai/*", or ""."""
        return f" for {self.pattern}" if self.pattern else ""


def to_error(refusal: AdmissionRefusal, demand: Demand) -> GatewayError:
    """Returns the error for a refusal."""
    code = refusal.code.partition(":")[0]
    if code == "invalid_api_key":
        return invalid_api_key(refusal.scope, refusal.limit)
    return _budget(refusal, demand) if code.startswith("budget_") else _BUILDERS[code](refusal, demand)


def _model(refusal: AdmissionRefusal, demand: Demand) -> GatewayError:
    return GatewayError(
        "model_not_allowed",
        f"This {refusal.who} may not use the model {demand.model!r}.",
        param="model",
        explain=_explain(refusal, "models"),
    )


def operation_not_allowed(scope: str, operation: str) -> GatewayError:
    """Returns the refusal of an operation that a scope, the key or the team, may not use."""
    return GatewayError(
        "operation_not_allowed",
        f"This {scope} may not use the operation {operation!r}.",
        explain={"limit": "operations", "scope": scope, "limit_source": "gateway"},
    )


def _operation(refusal: AdmissionRefusal, demand: Demand) -> GatewayError:
    return operation_not_allowed(refusal.scope, demand.operation)


def _max_output_tokens(refusal: AdmissionRefusal, _: Demand) -> GatewayError:
    return GatewayError(
        "invalid_field",
        f"This {refusal.who} may ask for {counted(refusal.limit, 'output token')} at most.",
        param="max_output_tokens",
        explain=_explain(refusal, "max_output_tokens", refusal.limit),
    )


def _concurrency(refusal: AdmissionRefusal, _: Demand) -> GatewayError:
    without_time = replace(refusal, wait_ms=None)  # no time to name in resets_at
    return GatewayError(
        "concurrency_exceeded",
        f"This {refusal.who} has {counted(refusal.used, 'request')} running{refusal.for_models}, "
        f"its limit is {refusal.limit}.",
        wait_ms=refusal.wait_ms,
        explain=_explain(without_time, "concurrency", refusal.limit),
    )


def _queue(refusal: AdmissionRefusal, _: Demand) -> GatewayError:
    without_time = replace(refusal, wait_ms=None)
    message = f"Other requests of this {refusal.who} wait for their turn already."
    if refusal.used:
        message = f"This {refusal.who} has {counted(refusal.used, 'request')} in its queue already."
    return GatewayError(
        "concurrency_exceeded",
        message,
        wait_ms=refusal.wait_ms,
        explain=_explain(without_time, "queue_length"),
    )


def _repeated(refusal: AdmissionRefusal, _: Demand) -> GatewayError:
    code, _separator, request_id = refusal.code.partition(":")
    state = "is still running" if code == "request_in_progress" else "was answered already"
    return GatewayError(
        code,
        f"A request with this Idempotency-Key {state}: {request_id}. It is not run or charged twice.",
        wait_ms=refusal.wait_ms,
        explain={"request_id": request_id},
    )


def _no_end_user(refusal: AdmissionRefusal, _: Demand) -> GatewayError:
    return GatewayError(
        "missing_field",
        f"This {refusal.who} has limits for each of its end users: name the end user in 'safety_identifier' or 'user', "
        "or in the header x-gateway-end-user.",
        param="safety_identifier",
        explain=_explain(refusal, "end_user"),
    )


def _end_users(refusal: AdmissionRefusal, _: Demand) -> GatewayError:
    guessed = replace(refusal, wait_ms=None)
    return GatewayError(
        "rate_limit_exceeded",
        f"The limits of each end user count {refusal.limit} of this team's end users already, as many as they may.",
        wait_ms=refusal.wait_ms,
        explain=_explain(guessed, "max_end_users", refusal.limit),
    )


def _paused(refusal: AdmissionRefusal, _: Demand) -> GatewayError:
    request_id = refusal.code.partition(":")[2]
    paused_at = iso_time(refusal.limit)
    return GatewayError(
        "team_paused",
        f"This team is paused since {paused_at}: the request {request_id} cost more than was held for it. "
        "An operator lets it go on, or a grant of credits.",
        explain={**_explain(refusal, "on_overrun"), "request_id": request_id, "paused_at": paused_at},
    )


def _explain(refusal: AdmissionRefusal, limit: str, value: int | str | None = None) -> dict[str, JsonScalar]:
    fields: dict[str, JsonScalar] = {"limit": limit, "scope": refusal.scope, "limit_source": "gateway"}
    if value is not None:
        fields["limit_value"] = value
    if refusal.pattern:
        fields["model_pattern"] = refusal.pattern
    if refusal.wait_ms is not None:
        fields["resets_at"] = iso_time(refusal.now_ms + refusal.wait_ms)
    return fields


def _rate(refusal: AdmissionRefusal, demand: Demand) -> GatewayError:
    limit = counted(refusal.limit, "request" if refusal.code == "rpm" else "token")
    message = f"This {refusal.who} is at its limit of {limit} per minute{refusal.for_models}."
    if refusal.wait_ms is None and refusal.limit:
        tokens = demand.input_tokens + demand.output_tokens
        message = (
            f"This request may take {counted(tokens, 'token')}, over the {refusal.who}'s limit of {limit} per "
            f"minute{refusal.for_models}: make it smaller or set max_output_tokens."
        )
    return GatewayError(
        "rate_limit_exceeded",
        message,
        wait_ms=refusal.wait_ms,
        explain=_explain(refusal, refusal.code, refusal.limit),
    )


def _credits(refusal: AdmissionRefusal, demand: Demand) -> GatewayError:
    affordable = _affordable(refusal, demand)
    advice = "Lower max_output_tokens, or ask for credits." if affordable else "Ask for credits."
    lapsed: dict[str, JsonScalar] = {}
    if refusal.expired_nano_usd:
        lapsed = {"expired_usd": format_usd(refusal.expired_nano_usd), "expired_at": iso_time(refusal.expired_ms)}
        advice = f"{lapsed['expired_usd']} USD of its credits expired, the last at {lapsed['expired_at']}. {advice}"
    return GatewayError(
        "insufficient_quota",
        f"This request may cost up to {format_usd(demand.amount_nano_usd)} USD, and the team has "
        f"{format_usd(refusal.available_nano_usd)} USD available. {advice}",
        explain={
            **_explain(refusal, "credits"),
            "affordable_output_tokens": affordable,
            "required_usd": format_usd(demand.amount_nano_usd),
            "available_usd": format_usd(refusal.available_nano_usd),
            **lapsed,
        },
    )


def _affordable(refusal: AdmissionRefusal, demand: Demand) -> int:
    """Returns the largest `max_output_tokens` with which the request would pass all credits and budgets; 0: none."""
    input_tokens = demand.input_tokens + demand.output_field_tokens
    by_usd = affordable_output_tokens(demand.worst, refusal.usd_left, demand.output_field_tokens * BYTES_PER_TOKEN)
    by_tokens = max(0, refusal.tokens_left - input_tokens)
    return by_tokens if by_usd is None else min(by_usd, by_tokens)


def _budget(refusal: AdmissionRefusal, demand: Demand) -> GatewayError:
    name = read_limit_name(refusal.code) or LimitName(refusal.code)
    if name.is_money:
        limit, used, required = (f"{format_usd(n)} USD" for n in (refusal.limit, refusal.used, demand.amount_nano_usd))
    else:
        limit, used, required = (
            counted(n, "token") for n in (refusal.limit, refusal.used, demand.input_tokens + demand.output_tokens)
        )
    return GatewayError(
        "insufficient_quota",
        f"This {refusal.who} has a budget of {limit} {period_in_words(name)}{refusal.for_models}; "
        f"used or held: {used}; "
        f"this request may take {required}.",
        wait_ms=refusal.wait_ms,
        explain={
            **_explain(refusal, refusal.code, format_usd(refusal.limit) if name.is_money else refusal.limit),
            "affordable_output_tokens": _affordable(refusal, demand),
        },
    )


_BUILDERS: Final[Mapping[str, Callable[[AdmissionRefusal, Demand], GatewayError]]] = MappingProxyType(
    {
        "model_not_allowed": _model,
        "operation_not_allowed": _operation,
        "max_output_tokens": _max_output_tokens,
        "rpm": _rate,
        "tpm": _rate,
        "concurrency": _concurrency,
        "queue": _queue,
        "credits": _credits,
        "team_paused": _paused,
        "no_end_user": _no_end_user,
        "end_users": _end_users,
        "request_in_progress": _repeated,
        "already_answered": _repeated,
    }
)
