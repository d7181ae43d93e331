"""The configuration that a request runs on, from its first step to its last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.routing.router import Router
from gateway.upstream.upstream import Upstream


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What the line accepts from clients. `longest_ms`: after which any request has ended."""

    max_body_bytes: int
    body_timeout_s: float
    default_max_output_tokens: int
    failover_s: float
    longest_ms: int = 3_600_000


@dataclass(frozen=True, slots=True)
class ConfigSnapshot:
    """The configuration that a request runs on, from its first step to its last; a reload makes another."""

    router: Router
    upstreams: Mapping[str, Upstream]
    limits: RequestLimits

    @property
    def keeps_state(self) -> bool:
        """Whether the gateway keeps the responses of any route."""
        return any(rule.state == "gateway" for rule in self.router.rules.values())
