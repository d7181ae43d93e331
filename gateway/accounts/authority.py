"""Who set a restriction of a key, and who may lift it. Pure.

A restriction that an operator set (an admin of the scope "all") is held: beside the field that is enforced, the key's
hash has `o:<field>` with the operator's value. A team's lead may tighten what is held, not lift it; what a lead set,
anybody may change who may change the key. An operator can release a field, which leaves its value to the lead.

    field                      restricts if              is tightened by
    status                     "disabled"                "disabled", "revoked", "archived"
    expires_ms                 set                       an earlier time
    models                     set                       fewer models
    operations                 set                       fewer operations
    cut_at_cap                 "1"                       "1"
    each limit                 set                       a lower number

Hashes of versions that did not know this lack `o:known`. Everything that restricts such a key is taken for an
operator's, because nobody can tell any more; its first change writes that down.

What an operator set for a while (overrides.py) no lead changes, and a lead's override is as tight as what is held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from gateway.accounts.entities import HELD_FIELD, ORIGINS_KNOWN, Changes, Key, restricts
from gateway.accounts.limit_names import is_limit
from gateway.billing.money import format_usd
from gateway.errors import GatewayError
from gateway.protocol.operations import names_of
from gateway.protocol.timestamps import iso_time
from gateway.routing.model_patterns import specificity

_NAMES: Final[Mapping[str, Callable[[str], tuple[str, ...]]]] = MappingProxyType(
    {"models": specificity, "operations": names_of}
)
"""Fields that are lists: what stands for one of their entries."""
_STATUS_RANK: Final = ("active", "disabled", "revoked", "archived")
_PARAMS: Final[Mapping[str, str]] = MappingProxyType({"expires_ms": "expires_at"})


def held_fields(key: Key | None, changes: Changes, *, by_operator: bool) -> dict[str, str]:
    """Returns the fields to write beside a change, or beside a creation (`key` is None). "" removes one.

    Raises GatewayError `not_allowed` if a lead lifts what an operator holds, or releases it.
    """
    fields = changes.fields()
    known = {} if key is not None and key.origins_known else {ORIGINS_KNOWN: "1"}
    before = {HELD_FIELD + name: value for name, value in key.held.items()} if key is not None and known else {}
    if by_operator:
        ours = {HELD_FIELD + name: value if restricts(name, value) else "" for name, value in fields.items()}
        released = {HELD_FIELD + name: "" for name in changes.release}
        return {**before, **ours, **known, **released}
    if changes.release:
        raise GatewayError("not_allowed", "Only an operator releases what an operator set.", param="release")
    for name, value in fields.items():
        held = key.held.get(name, "") if key is not None else ""
        if held and not _is_as_tight(name, value, held):
            raise _lifted(name, held)
    return {**before, **known}


def refuse_lifting_overrides(key: Key, changes: Changes, now_ms: int) -> None:
    """Raises GatewayError `not_allowed` if a lead changes an operator's override, or sets one above what is held."""
    for name, override in changes.overrides.items():
        known, held = key.overrides.get(name), key.held.get(name, "")
        if known is not None and known.by_operator and known.holds(now_ms) and known.differs(override):
            raise GatewayError(
                "not_allowed",
                f"An operator set {name} of this key until {iso_time(known.until_ms)}.",
                param=f"overrides.{name}",
            )
        value = "" if override is None or override.value is None else str(override.value)
        if override is not None and held and not _is_as_tight(name, value, held):
            raise _lifted(name, held)


def param_of(name: str) -> str:
    """Returns the name that a field of the hash has in the API."""
    return f"limits.{name}" if is_limit(name) else _PARAMS.get(name, name)


def _is_as_tight(name: str, value: str, held: str) -> bool:
    if name == "status":
        return _STATUS_RANK.index(value) >= _STATUS_RANK.index(held)
    if (names := _NAMES.get(name)) is not None:
        permitted = set(held.split("\n"))
        return value != "" and all(not permitted.isdisjoint(names(wanted)) for wanted in value.split("\n"))
    if name == "cut_at_cap":
        return value == held
    return value != "" and int(value) <= int(held)


def _lifted(name: str, held: str) -> GatewayError:
    shown = f"{format_usd(int(held))} USD" if name.startswith("budget_usd") else held.replace("\n", ", ")
    to = "" if name in ("expires_ms", "cut_at_cap") else f" to {shown}"
    return GatewayError(
        "not_allowed",
        f"An operator set {param_of(name)} of this key{to}. An admin key of the team may tighten that, not lift it.",
        param=param_of(name),
    )
