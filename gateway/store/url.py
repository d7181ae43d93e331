"""Parses `store.url`. Pure.

    embedded                                                   the server that comes with the gateway; no StoreUrl
    unix:///path[?db=N]                                        one node
    redis://[user:pw@]host[:6379][/db]         rediss://       one node; rediss is with TLS, also for the next two
    redis+sentinel://[user:pw@]h1[:26379],h2.../name[/db]      the primary that the Sentinels name
    redis+cluster://[user:pw@]h1[:6379],h2...                  every primary, by slot

User and password are those of the store; the Sentinels have their own. Both may be percent-encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

EMBEDDED: Final = "embedded"


class Address(NamedTuple):
    """A node: TCP `host` and `port`, or the `path` of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


class Mode(Enum):
    """The topology of a store."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES: Final[Mapping[str, tuple[Mode, bool, int]]] = MappingProxyType(  # mode, TLS, default port
    {
        "redis": (Mode.SINGLE, False, 6379),
        "rediss": (Mode.SINGLE, True, 6379),
        "redis+sentinel": (Mode.SENTINEL, False, 26379),
        "rediss+sentinel": (Mode.SENTINEL, True, 26379),
        "redis+cluster": (Mode.CLUSTER, False, 6379),
        "rediss+cluster": (Mode.CLUSTER, True, 6379),
    }
)


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A parsed `store.url`. `addresses`: the node, the Sentinels, or the cluster nodes to ask first."""

    mode: Mode
    addresses: tuple[Address, ...]
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    primary_name: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parses a URL. Raises ValueError, which never contains the URL, because that may contain a password."""
        try:
            parts = urlsplit(url)
            if parts.scheme == "unix":
                return cls._unix(parts.path, parse_qs(parts.query))
            mode, tls, default_port = _SCHEMES[parts.scheme]
        except KeyError:
            known = ", ".join(f"{scheme}://" for scheme in ("unix", *_SCHEMES))
            raise ValueError(f'unknown scheme; "{EMBEDDED}", or one of {known}') from None
        userinfo, _, hosts = parts.netloc.rpartition("@")
        username, colon, password = userinfo.partition(":")
        path = [unquote(piece) for piece in parts.path.split("/") if piece]
        if mode is Mode.SENTINEL and not path:
            raise ValueError("the name of the primary is missing: redis+sentinel://host:port/NAME")
        primary_name = path.pop(0) if mode is Mode.SENTINEL else ""
        if len(path) > (0 if mode is Mode.CLUSTER else 1):
            raise ValueError("too many parts in its path")
        return cls(
            mode=mode,
            addresses=tuple(_addresses(hosts, default_port, single=mode is Mode.SINGLE)),
            tls=tls,
            username=unquote(username) or None,
            password=unquote(password) if colon else None,
            db=_db(path[0]) if path else 0,
            primary_name=primary_name,
        )

    @classmethod
    def _unix(cls, path: str, query: dict[str, list[str]]) -> Self:
        if not path:
            raise ValueError("the socket's path is missing: unix:///path/to/socket")
        return cls(Mode.SINGLE, (Address(path=unquote(path)),), db=_db(query.get("db", ["0"])[0]))


def _db(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("the database must be a number")
    return int(text)


def _addresses(hosts: str, default_port: int, *, single: bool) -> Iterable[Address]:
    names = hosts.split(",")
    if single and len(names) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    for name in names:
        try:
            parts = urlsplit(f"//{name}")
            host, port = parts.hostname, parts.port
        except ValueError:  # the exception's text might contain the password, as in "redis://:secret"
            raise ValueError("a host or its port cannot be read") from None
        if not host:
            raise ValueError("a host is missing")
        yield Address(host, default_port if port is None else port)
