"""How to reach the identity provider."""

from __future__ import annotations

from typing import NamedTuple


class OidcConfig(NamedTuple):
    """`client_secret` is "" for a public client. `ca_file` (PEM) is trusted in place of the system's authorities."""

    issuer: str
    client_id: str
    client_secret: str
    scopes: tuple[str, ...]
    name_claim: str
    groups_claim: str
    timeout_s: float
    ca_file: str | None = None
