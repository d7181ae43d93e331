"""A person who has signed in at the identity provider, and what their groups permit here. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

MAX_NAME_CHARACTERS: Final = 64
MAX_GROUPS: Final = 10_000


class Grant(NamedTuple):
    """What the members of a group may do. `scope` is that of an admin key; `team` is "" unless the scope is "team"."""

    group: str
    scope: str
    team: str = ""


class Person(NamedTuple):
    """`subject` is the provider's permanent id of the person; `name` is for people."""

    subject: str
    name: str
    groups: frozenset[str]


def person_of(claims: Mapping[str, Any], name_claim: str, groups_claim: str) -> Person:
    """Returns the person that claims describe. A claim such as "realm_access.roles" is found inside of an object."""
    subject = str(claims["sub"])
    name = _claim(claims, name_claim)
    readable = name if isinstance(name, str) and name.strip() and name.isprintable() else subject
    groups = _claim(claims, groups_claim)
    names = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
    found = frozenset(group for group in names[:MAX_GROUPS] if isinstance(group, str))
    return Person(subject, readable.strip()[:MAX_NAME_CHARACTERS], found)


def has_groups(claims: Mapping[str, Any], groups_claim: str) -> bool:
    """Returns whether the claims say anything about groups."""
    return _claim(claims, groups_claim) is not None


def grant_of(person: Person, grants: Iterable[Grant]) -> Grant | None:
    """Returns the first grant for a group of the person, or None: nobody else may sign in."""
    return next((grant for grant in grants if grant.group in person.groups), None)


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
