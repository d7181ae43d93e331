"""Sign-in of operators by an identity provider."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from gateway.config.sections import Section
from gateway.config.types import OptionalSecret, Seconds
from gateway.oidc.config import OidcConfig
from gateway.oidc.person import Grant

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_Word = Annotated[str, Field(min_length=1, max_length=255)]


class OidcSettings(Section):
    """Sign-in by OpenID Connect, which is off without an issuer."""

    issuer: str | None = None
    client_id: _Word | None = None
    client_secret: OptionalSecret = None
    label: str = Field(default="single sign-on", min_length=1, max_length=64)
    scopes: tuple[_Word, ...] = ("openid", "profile", "email")
    name_claim: str = Field(default="email", min_length=1, max_length=255)
    groups_claim: str = Field(default="groups", min_length=1, max_length=255)
    lasts_s: int = Field(default=8 * 3600, ge=300, le=7 * 86_400)
    timeout_s: Seconds = 10.0
    ca_file: Path | None = None
    groups: dict[_Word, str] = Field(default={}, max_length=1000)

    @field_validator("issuer")
    @classmethod
    def _is_protected(cls, issuer: str | None) -> str | None:
        if issuer is not None:
            parts = urlsplit(issuer)
            if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
                raise ValueError("an issuer is an https:// URL, as the provider's metadata has it")
            if not parts.hostname or parts.query or parts.fragment or parts.username is not None:
                raise ValueError("an issuer is a URL without a query, a fragment and credentials")
        return issuer

    @field_validator("groups")
    @classmethod
    def _are_scopes(cls, groups: dict[str, str]) -> dict[str, str]:
        for name, permits in groups.items():
            scope, _, team = permits.partition(":")
            if not (permits in ("all", "read") or (scope == "team" and team)):
                raise ValueError(f'the group {name!r} permits "all", "read" or "team:NAME"')
        return groups

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.issuer is not None:
            if self.client_id is None:
                raise ValueError("an issuer needs a client_id")
            if not self.groups:
                raise ValueError('an issuer needs groups that may sign in: [oidc.groups] with NAME = "all"')
            if "openid" not in self.scopes:
                raise ValueError('scopes must have "openid"')
            if self.ca_file is not None and not self.ca_file.is_file():
                raise ValueError(f"ca_file: there is no file {self.ca_file}")
        return self

    @property
    def grants(self) -> tuple[Grant, ...]:
        """What the members of each group may do, in the order of the configuration."""
        split = ((name, *permits.partition(":")) for name, permits in self.groups.items())
        return tuple(Grant(name, scope, team) for name, scope, _, team in split)

    def client(self) -> OidcConfig | None:
        """Returns how to reach the provider, or None if this sign-in is off."""
        if self.issuer is None or self.client_id is None:
            return None
        secret = self.client_secret.get_secret_value() if self.client_secret is not None else ""
        ca_file = None if self.ca_file is None else str(self.ca_file)
        return OidcConfig(
            self.issuer,
            self.client_id,
            secret,
            self.scopes,
            self.name_claim,
            self.groups_claim,
            self.timeout_s,
            ca_file,
        )
