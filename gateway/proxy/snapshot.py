"""The configuration on which a request runs from its first step to its last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gateway.concurrency.off_loop import OffLoop
from gateway.protocol.attribution import DEFAULT, NOBODY, AttributionPolicy
from gateway.protocol.body_bounds import DEFAULT_BOUNDS, BodyBounds
from gateway.proxy.body_budget import BodyBudget
from gateway.proxy.form_spool import FormSpool
from gateway.routing.router import Router
from gateway.upstream.upstream import Upstream

SendOutputBound = Literal["auto", True, False]
"""Whether the provider gets a bound on the output that the caller did not state (output_bound.py)."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds on requests, and defaults for what they leave open.

    `max_duration_ms`: every request has ended after this time, unless it runs in the background.
    """

    max_body_bytes: int
    body_timeout_s: float
    default_max_output_tokens: int
    failover_s: float
    max_duration_ms: int
    reserve_input_tokens: int
    max_tool_calls: int
    reserve_tool_tokens: int
    body_bounds: BodyBounds = DEFAULT_BOUNDS
    dry_runs_per_minute: int = 60
    send_max_output_tokens: SendOutputBound = "auto"
    token_counts_per_minute: int = 600
    charge_unanswered: Literal["input", "nothing"] = "input"
    charge_failed_input: bool = True
    on_overrun: Literal["allow", "pause"] = "allow"
    attribution: AttributionPolicy = DEFAULT
    unnamed: str = NOBODY


@dataclass(slots=True)
class Tenancy:
    """Whether several teams share the upstreams' accounts. Mutable: the control loop updates it; True at first."""

    several_teams: bool = True


@dataclass(frozen=True, slots=True)
class ConfigSnapshot:
    """The configuration on which a request runs from its first step to its last. A reload makes another one.

    `offers_differ`: not every upstream offers all operations.
    """

    router: Router
    upstreams: Mapping[str, Upstream]
    limits: RequestLimits
    off_loop: OffLoop
    body_memory: BodyBudget
    forms: FormSpool
    has_several_keys: bool = False
    offers_differ: bool = False
    tenancy: Tenancy = field(default_factory=Tenancy)

    @property
    def keeps_state(self) -> bool:
        """Whether the gateway stores the responses of any route."""
        return any(rule.state == "gateway" for rule in self.router.rules.values())


class ActiveSnapshot:
    """A snapshot, and how many requests run on it. State that changes: `requests`."""

    def __init__(self, snapshot: ConfigSnapshot) -> None:
        self.snapshot = snapshot
        self.requests = 0
