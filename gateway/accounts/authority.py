"""Decides which admins may lift a restriction of a key. Pure.

An operator is an admin of the scope "all". For a restriction that an operator set, the key's hash has `o:<field>` with
the operator's value, in addition to the enforced field. A team's lead may tighten such a restriction but not lift it.
A restriction that a lead set may be changed by every admin of the key. An operator can release a field. From then on
the lead decides its value.

    field                      restricts if              is tightened by
    status                     "disabled"                "disabled", "revoked", "archived"
    expires_ms                 set                       an earlier time
    models                     set                       fewer models
    operations                 set                       fewer operations
    cut_at_cap                 "1"                       "1"
    each limit                 set                       a lower number

Hashes written by older versions lack `o:known`, and do not tell who set their restrictions. All restrictions of such a
key count as an operator's. Its first change stores that.

A lead may not change an override of an operator (overrides.py), and a lead's override may only tighten a restriction of
an operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from gateway.accounts.entities import OPERATOR_FIELD, ORIGINS_KNOWN, Changes, Key, restricts
from gateway.accounts.limit_names import is_limit, read_limit_name
from gateway.billing.money import format_usd
from gateway.errors import GatewayError
from gateway.protocol.operations import names_of
from gateway.protocol.timestamps import iso_time
from gateway.routing.model_patterns import specificity

_NAMES: Final[Mapping[str, Callable[[str], tuple[str, ...]]]] = MappingProxyType(
    {"models": specificity, "operations": names_of}
)
"""Fields that are lists -> a function that returns the names that permit an entry."""
_STATUS_RANK: Final = ("active", "disabled", "revoked", "archived")
_PARAMS: Final[Mapping[str, str]] = MappingProxyType({"expires_ms": "expires_at"})


def operator_fields(key: Key | None, changes: Changes, *, by_operator: bool) -> dict[str, str]:
    """Returns the `o:` fields to write with a change, or with a creation (`key` is None). "" removes a field.

    Raises GatewayError `not_allowed` if a lead lifts or releases an operator's restriction.
    """
    fields = changes.fields()
    known = {} if key is not None and key.origins_known else {ORIGINS_KNOWN: "1"}
    before = (
        {OPERATOR_FIELD + name: value for name, value in key.operator_values.items()}
        if key is not None and known
        else {}
    )
    if by_operator:
        ours = {OPERATOR_FIELD + name: value if restricts(name, value) else "" for name, value in fields.items()}
        released = {OPERATOR_FIELD + name: "" for name in changes.release}
        return {**before, **ours, **known, **released}
    if changes.release:
        raise GatewayError("not_allowed", "Only an operator releases what an operator set.", param="release")
    for name, value in fields.items():
        operator_value = key.operator_values.get(name, "") if key is not None else ""
        if operator_value and not _is_as_tight(name, value, operator_value):
            raise _lift_refused(name, operator_value)
    return {**before, **known}


def refuse_lifting_overrides(key: Key, changes: Changes, now_ms: int) -> None:
    """Raises GatewayError `not_allowed` if a lead changes an operator's override, or exceeds an operator's limit."""
    for name, override in changes.overrides.items():
        known, operator_value = key.overrides.get(name), key.operator_values.get(name, "")
        if known is not None and known.by_operator and known.is_in_force(now_ms) and known.differs(override):
            raise GatewayError(
                "not_allowed",
                f"An operator set {name} of this key until {iso_time(known.until_ms)}.",
                param=f"overrides.{name}",
            )
        value = "" if override is None or override.value is None else str(override.value)
        if override is not None and operator_value and not _is_as_tight(name, value, operator_value):
            raise _lift_refused(name, operator_value)


def param_of(name: str) -> str:
    """Returns the name that a field of the hash has in the API."""
    return f"limits.{name}" if is_limit(name) else _PARAMS.get(name, name)


def _is_as_tight(name: str, value: str, operator_value: str) -> bool:
    if name == "status":
        return _STATUS_RANK.index(value) >= _STATUS_RANK.index(operator_value)
    if (names := _NAMES.get(name)) is not None:
        permitted = set(operator_value.split("\n"))
        return value != "" and all(not permitted.isdisjoint(names(entry)) for entry in value.split("\n"))
    if name == "cut_at_cap":
        return value == operator_value
    return value != "" and int(value) <= int(operator_value)


def _lift_refused(name: str, value: str) -> GatewayError:
    read = read_limit_name(name)
    shown = f"{format_usd(int(value))} USD" if read is not None and read.is_money else value.replace("\n", ", ")
    to = "" if name in ("expires_ms", "cut_at_cap") else f" to {shown}"
    return GatewayError(
        "not_allowed",
        f"An operator set {param_of(name)} of this key{to}. An admin key of the team may tighten that, not lift it.",
        param=param_of(name),
    )
