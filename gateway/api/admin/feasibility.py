"""Refuses settings of teams and keys that can never work, with the reason, before anything is changed.

| setting                     | is refused if                                                                      |
|-----------------------------|------------------------------------------------------------------------------------|
| `expires_at`                | it has passed                                                                      |
| `models`, a limit's models  | no route matches; an alias becomes the model that it stands for                    |
| `rpm`, `tpm`, `concurrency` | it is 0, which refuses every request: disable the team or the key instead. The     |
|                             | same for those of each end user                                                    |
| `tpm` and each budget       | it is below what the smallest request holds at the cheapest model that may be used |
| `limits`                    | there would be more than `MAX_RULES` rules beyond the plain limits                 |
| `queue_s`, `queue_length`   | no request could wait, because the other one is missing or 0, here and at the team |
| `overrides`                 | the same; but 0 is permitted, because an override ends                             |

A value that is already set may be sent again, because forms send all values.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar

import orjson

from gateway.accounts.accounts import Changes, Key, Team
from gateway.accounts.limit_names import END_USER, MODELS, PLAIN, QUEUE_LIMITS, read_limit_name, with_pattern
from gateway.accounts.overrides import Override, in_force
from gateway.accounts.rules import MAX_RULES
from gateway.billing.money import format_usd
from gateway.errors import GatewayError
from gateway.protocol.model_spelling import folded
from gateway.protocol.operations import CREATE
from gateway.protocol.request_body import read_request_body
from gateway.proxy.reservation import reserve
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.routing.router import Router

_LOCKS_OUT_AT_ZERO: Final = ("rpm", "tpm", "concurrency")
_MIN_TOKENS: Final = 2  # one in, one out
_NOTHING: Final[Mapping[str, Override]] = MappingProxyType({})
_Value = TypeVar("_Value", int, Override)
_ROUNDED_MS: Final = 60_000  # a browser's form sends an expiry without its seconds


class _Cheapest(NamedTuple):
    """What the smallest request holds at the cheapest model."""

    nano_usd: int
    model: str


def feasible(
    snapshot: ConfigSnapshot, changes: Changes, before: Team | Key | None, team: Team | None = None
) -> Changes:
    """Returns the changes with models for aliases. `team`: the key's. Raises GatewayError `invalid_field`."""
    if changes.expires_ms:
        known = before.expires_ms if before is not None else 0
        if abs(changes.expires_ms - known) >= _ROUNDED_MS:
            refuse_past(changes.expires_ms)
    if changes.models:
        known_models = before.models if before is not None else ()
        models = tuple(
            model if model in known_models else _resolved(snapshot.router, model) for model in changes.models
        )
        changes = replace(changes, models=tuple(dict.fromkeys(models)))
    unset: Mapping[str, int] = {}
    set_before = before.limits if before is not None else unset
    for name, value in _new(changes.limits, set_before).items():
        if name.removeprefix(END_USER).removesuffix(f"{MODELS}*") in _LOCKS_OUT_AT_ZERO and value == 0:
            raise _impossible(f"limits.{name}", "0 refuses every request for ever: disable the team or the key instead")
    overridden = before.overrides if before is not None else _NOTHING
    limits = _resolved_names(snapshot.router, changes.limits, set_before, "limits")
    overrides = _resolved_names(snapshot.router, changes.overrides, overridden, "overrides")
    changes = replace(changes, limits=limits, overrides=overrides)
    kept = {*_set(set_before, limits), *_set(overridden, overrides)}
    if sum(name not in PLAIN for name in kept) > MAX_RULES:
        raise _impossible(
            "limits", f"at most {MAX_RULES} limits besides the plain ones: each is looked at in each request"
        )
    _refuse_idle_queue(changes, before, team)
    own = changes.models if changes.models is not None else before.models if before is not None else ()
    lists = [own, team.models if team is not None else ()]
    _refuse_too_small(snapshot, lists, _new(limits, set_before), "limits")
    for_a_while = {name: one.value for name, one in overrides.items() if one and one != overridden.get(name)}
    _refuse_too_small(snapshot, lists, {name: value for name, value in for_a_while.items() if value}, "overrides")
    return changes


def refuse_past(expires_ms: int) -> None:
    """Raises GatewayError `invalid_field` for an expiry that has passed."""
    if expires_ms <= time.time_ns() // 1_000_000:
        raise _impossible("expires_at", "this time has passed: what expires then never works")


def _new(limits: Mapping[str, int | None], before: Mapping[str, int]) -> dict[str, int]:
    return {name: value for name, value in limits.items() if value is not None and before.get(name) != value}


def _refuse_idle_queue(changes: Changes, before: Team | Key | None, team: Team | None) -> None:
    """Raises GatewayError if a change of the queue's limits leaves one of them without effect.

    A key that lacks one of them has its team's (admit_v8). Overrides count for overrides only, because they end.
    """
    now_ms = time.time_ns() // 1_000_000
    set_before = before.limits if before is not None else {}
    overridden = before.overrides if before is not None else _NOTHING
    own = _set(set_before, changes.limits)
    if any(name in changes.limits and own.get(name) != set_before.get(name) for name in QUEUE_LIMITS):
        _refuse_idle(own, team.limits if team is not None else {}, "limits")
    if any(name in changes.overrides and changes.overrides[name] != overridden.get(name) for name in QUEUE_LIMITS):
        own = in_force(own, _set(overridden, changes.overrides), now_ms)
        _refuse_idle(own, in_force(team.limits, team.overrides, now_ms) if team is not None else {}, "overrides")


def _refuse_idle(own: Mapping[str, int], of_team: Mapping[str, int], field: str) -> None:
    lengths = [limits["queue_length"] for limits in (own, of_team) if "queue_length" in limits]  # both are bounds
    needed = (
        ("queue_length", min(lengths, default=None), "how many requests may wait"),
        ("queue_s", own.get("queue_s", of_team.get("queue_s")), "for how long a request may wait"),
    )
    for name in filter(own.get, QUEUE_LIMITS):
        for other, value, says in needed:
            if value is None:
                raise _impossible(f"{field}.{name}", f"it has no effect without {other}, which says {says}: set both")
            if value == 0:
                whose = "" if own.get(other) == 0 else "the team's "
                raise _impossible(f"{field}.{name}", f"it has no effect, because {whose}{other} is 0: no request waits")


def _set(before: Mapping[str, _Value], changes: Mapping[str, _Value | None]) -> dict[str, _Value]:
    return {name: value for name, value in {**before, **changes}.items() if value is not None}


def _resolved_names(
    router: Router, limits: Mapping[str, _Value | None], before: Mapping[str, _Value], field: str
) -> dict[str, _Value | None]:
    """Returns limits whose patterns are those of models for aliases. Raises GatewayError if no route matches."""
    found: dict[str, _Value | None] = {}
    for name, value in limits.items():
        plain, _, pattern = name.partition(MODELS)
        is_new = pattern and value is not None and before.get(name) != value
        found[with_pattern(plain, _resolved(router, pattern, f"{field}.{name}")) if is_new else name] = value
    return found


def _resolved(router: Router, pattern: str, param: str = "models") -> str:
    """Returns the model that a pattern stands for, or the pattern itself."""
    if pattern.endswith("*"):
        prefix = folded(pattern[:-1])
        fits = (folded(rule).removesuffix("*") for rule in router.rules)
        if not any(known.startswith(prefix) or prefix.startswith(known) for known in fits):
            raise _impossible(param, f"no route fits {pattern!r}")
        return pattern
    name = router.names.read(pattern)
    if router.rule_of(name) is None:
        raise _impossible(param, f"{pattern!r} has no route, and no alias")
    return name.model


def _refuse_too_small(
    snapshot: ConfigSnapshot, lists: list[tuple[str, ...]], limits: Mapping[str, int], field: str
) -> None:
    cheapest_of: dict[str, _Cheapest | None] = {}
    for name, value in limits.items():
        if not name.removeprefix(END_USER).startswith(("tpm", "budget_")):
            continue
        pattern = name.partition(MODELS)[2]
        if pattern not in cheapest_of:
            cheapest_of[pattern] = _cheapest(snapshot, [*lists, (pattern,) if pattern else ()])
        cheapest, needed = cheapest_of[pattern], ""
        read = read_limit_name(name)
        counts_tokens = read is not None and read.base in ("tpm", "budget_tokens")
        if read is not None and read.is_money and cheapest is not None and value < cheapest.nano_usd:
            needed = f"{format_usd(cheapest.nano_usd)} USD, of the model {cheapest.model!r}"
        elif counts_tokens and value < _MIN_TOKENS:
            needed = f"{_MIN_TOKENS} tokens"
        if needed:
            raise _impossible(f"{field}.{name}", f"it lets no request through: the smallest one holds {needed}")


def _cheapest(snapshot: ConfigSnapshot, permitted: list[tuple[str, ...]]) -> _Cheapest | None:
    """Returns what the smallest request holds, or None where no model is known that may be used."""
    lists = [frozenset(map(folded, models)) for models in permitted if models]
    found: list[_Cheapest] = []
    for pattern in {
        *snapshot.router.prices.prices,
        *snapshot.router.rules,
        *(name for one in permitted for name in one),
    }:
        model = pattern.replace("*", "x")
        body = orjson.dumps({"model": model, "input": "x", "max_output_tokens": 1})
        try:
            route = snapshot.router.resolve(model)
            request = read_request_body(body, CREATE.dialect.request)
            held = reserve(request, CREATE, route, snapshot.router, snapshot.limits, None, time.time_ns() // 1_000_000)
        except GatewayError:
            continue
        if all(not one.isdisjoint(route.patterns) for one in lists):
            found.append(_Cheapest(held.worst.amount_nano_usd, pattern))
    return min(found, default=None)


def _impossible(param: str, why: str) -> GatewayError:
    return GatewayError("invalid_field", f"{param}: {why}.", param=param)
