"""Whom a request is for: tags of the caller's own, and the end user. Pure.

    read_labels(fields)                    what a body says -> BodyLabels
    named_by(header, labels)               with the end user whom the header `x-gateway-end-user` names
    tags_of(header, labels, policy)        with the header `x-gateway-tags`, bounded -> lines for the ledger, or ""
    tag_names(lines)                       the same for people
    counted_as(labels, policy, unnamed)    whom limits of each end user count the request for
    known_as(name, policy)                 the same for a name that an operator gives

The header of tags has the form of W3C baggage: `project=alpha,env=prod`, values percent-encoded where they have to be.
What is wrong with it is refused. Both headers are the gateway's own and never go to an upstream. A body is the
provider's to judge: what of it is no tag is left out. Not every operation has a field for an end user: the header is
for all of them, and goes before the body.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import unquote

from gateway.errors import GatewayError

HEADER: Final = b"x-gateway-tags"
END_USER_HEADER: Final = b"x-gateway-end-user"
EndUsers = Literal["plain", "hashed", "off"]
END_USER: Final = "u"
TAG: Final = "t:"
"""How the ledger's lines begin: the end user, and a tag."""
MAX_NAME: Final = 64
MAX_VALUE: Final = 128
MAX_MEMBERS: Final = 16
"""Members of a body's `metadata` that are looked at: OpenAI allows no more."""
EVERY: Final = "*"
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
USER_FIELDS: Final = ("safety_identifier", "user")
"""Where a body names the end user, the first that does."""
LABELLED: Final = frozenset({"metadata", *USER_FIELDS})
_USER_ID: Final = "user_id"  # where Anthropic's clients name the end user, in `metadata`
_HASH_CHARACTERS: Final = 32
_DIGEST: Final = re.compile(rf"[0-9a-f]{{{_HASH_CHARACTERS}}}")
NOBODY: Final = "none"
"""Stands for the end users of all requests that name none, where limits count. No digest is like it."""
_MARK_CHARACTERS: Final = 16


class BodyLabels(NamedTuple):
    """What a body says: members of its metadata, and the end user, "" if it names none."""

    metadata: tuple[tuple[str, str], ...] = ()
    end_user: str = ""


NO_LABELS: Final = BodyLabels()


class AttributionPolicy(NamedTuple):
    """What counts as a tag, and how much of it is kept.

    `metadata`: names of members that count, EVERY for all. `hash_key`: of "hashed" end users. `bounds`: the most values
    of a name and the most names on a day, and how long a day is kept in ms, as the script reads them.
    """

    metadata: frozenset[str] = frozenset({EVERY})
    end_users: EndUsers = "plain"
    hash_key: bytes = b""
    max_tags: int = 8
    bounds: str = "500 20 7776000000"


DEFAULT: Final = AttributionPolicy()


def read_labels(fields: Mapping[str, Any]) -> BodyLabels:
    """Returns what a decoded body says. Never raises: a value of another type counts as absent."""
    metadata = fields.get("metadata")
    members: dict[str, str] = {}
    if isinstance(metadata, dict):
        for name, value in list(metadata.items())[:MAX_MEMBERS]:
            if isinstance(value, str) and _NAME.fullmatch(name) and (text := _text(value)):
                members[name] = text
    end_user = next(filter(None, (_text(fields.get(name)) for name in USER_FIELDS)), "")
    if not end_user:
        end_user = members.pop(_USER_ID, "")
    return BodyLabels(tuple(members.items()), end_user)


def named_by(header: bytes | None, labels: BodyLabels) -> BodyLabels:
    """Returns the labels with the end user whom the header names, percent-encoded where it has to be."""
    if header is None:
        return labels
    try:
        text = header.decode()
    except UnicodeDecodeError:
        text = header.decode("latin-1")
    end_user = _text(unquote(text))
    return labels._replace(end_user=end_user) if end_user else labels


def tags_of(header: bytes | None, labels: BodyLabels, policy: AttributionPolicy = DEFAULT) -> str:
    """Returns a request's tags for the ledger: the bounds, and a line for each tag and for the end user.

    A tag of the header goes before one of the metadata. Raises GatewayError `invalid_field` for a header that is wrong.
    """
    tags = {} if header is None else _read_header(header, policy.max_tags)
    for name, value in labels.metadata if policy.metadata else ():
        if len(tags) == policy.max_tags:
            break
        if name in policy.metadata or EVERY in policy.metadata:
            tags.setdefault(name, value)
    lines = [f"{TAG}{name}={value}" for name, value in tags.items()]
    if labels.end_user and policy.end_users != "off":
        lines.append(f"{END_USER}={end_user_of(labels.end_user, policy)}")
    return "\n".join((policy.bounds, *lines)) if lines else ""


def end_user_of(name: str, policy: AttributionPolicy) -> str:
    """Returns how an end user is kept."""
    if policy.end_users != "hashed":
        return name
    return hmac.digest(policy.hash_key, name.encode(), hashlib.sha256).hex()[:_HASH_CHARACTERS]


def counted_as(labels: BodyLabels, policy: AttributionPolicy, unnamed: str) -> str:
    """Returns the digest by which limits of each end user know who that is. `unnamed`: where the body names nobody."""
    if not labels.end_user:
        return unnamed
    name = labels.end_user.encode()
    digest = hmac.digest(policy.hash_key, name, hashlib.sha256) if policy.hash_key else hashlib.sha256(name).digest()
    return digest.hex()[:_HASH_CHARACTERS]


def known_as(name: str, policy: AttributionPolicy) -> tuple[str, ...]:
    """Returns the digests by which limits may know an end user whom an operator names; "": those who name none.

    Where reports show digests, an operator may name one of those.
    """
    if not name:
        return (NOBODY,)
    digest = counted_as(BodyLabels(end_user=_text(name)), policy, NOBODY)
    return (digest, name) if _DIGEST.fullmatch(name) else (digest,)


def tag_names(lines: str) -> tuple[dict[str, str], str | None]:
    """Returns a request's tags by name, and its end user."""
    pairs = dict(line.split("=", 1) for line in lines.split("\n")[1:])
    end_user = pairs.pop(END_USER, None)
    return {name.removeprefix(TAG): value for name, value in pairs.items()}, end_user


def _read_header(header: bytes, max_tags: int) -> dict[str, str]:
    tags: dict[str, str] = {}
    for part in header.decode("latin-1").split(","):
        if not (member := part.strip()):
            continue
        name, equals, raw = (piece.strip() for piece in member.partition("="))
        value = unquote(raw)
        if not equals or not _NAME.fullmatch(name) or not 0 < len(value) <= MAX_VALUE or not value.isprintable():
            raise _wrong(
                f"{member[:MAX_VALUE]!r} is no tag: a name of 1 to {MAX_NAME} letters, digits, '_', '.' and '-', '=' "
                f"and a value of 1 to {MAX_VALUE} characters, percent-encoded"
            )
        if name in tags:
            raise _wrong(f"the tag {name!r} stands there twice")
        tags[name] = value
        if len(tags) > max_tags:
            raise _wrong(f"a request has {max_tags} tags at most")
    return tags


def _wrong(why: str) -> GatewayError:
    name = HEADER.decode()
    return GatewayError("invalid_field", f"{name}: {why}.", param=name)


def _text(value: object) -> str:
    """Returns a text in one line, "" for what is none. A long one ends in a digest, so that it stays another's."""
    if not isinstance(value, str):
        return ""
    text = " ".join(value[: 4 * MAX_VALUE].split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    if len(value) <= 4 * MAX_VALUE and len(text) <= MAX_VALUE:
        return text
    mark = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()[:_MARK_CHARACTERS]
    return f"{text[: MAX_VALUE - _MARK_CHARACTERS - 1]}~{mark}"
