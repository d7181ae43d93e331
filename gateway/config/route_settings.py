"""One route's table of the configuration: `[[routes]]`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    model_validator,
)

from gateway.config.sections import (
    Section,
)
from gateway.config.types import (
    Pattern,
    Seconds,
)
from gateway.routing.affinity import Affinity
from gateway.routing.field_policies import FieldPolicies, ForeignIds, PolicedField, Policy
from gateway.routing.router import RouteRule


class RouteSettings(Section):
    """One [[routes]] entry: the upstreams that serve a model."""

    model: Pattern
    upstreams: tuple[str, ...] = Field(min_length=1)
    weights: tuple[Annotated[int, Field(ge=0, le=1_000_000)], ...] = ()
    rename: str | None = Field(default=None, min_length=1, max_length=256)
    strip_prefix: str | None = Field(default=None, min_length=1, max_length=256)
    repeat_started: bool = False
    cost_source: Literal["usage", "upstream"] = "usage"
    keepalive_s: Seconds | None = None
    early_keepalive_s: Seconds | None = None
    cut_at_cap: bool = False
    default_max_output_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    send_max_output_tokens: bool | Literal["auto"] | None = None
    state: Literal["upstream", "gateway", "none"] = "upstream"
    upstream_store: Literal["false", "omit"] = "false"
    replay_ids: Literal["none", "reasoning"] = "none"
    reserve_input_tokens: int | None = Field(default=None, ge=0, le=1_000_000_000)
    max_tool_calls: int | None = Field(default=None, ge=0, le=10_000)
    affinity: Affinity = "session"
    charge_unanswered: Literal["input", "nothing"] | None = None
    charge_failed_input: bool | None = None
    on_overrun: Literal["allow", "pause"] | None = None
    fields: dict[PolicedField, Policy] = Field(default_factory=dict)
    foreign_ids: ForeignIds = "auto"
    price_by: Literal["asked", "answered"] = "asked"
    websocket: bool = True

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.weights and len(self.weights) != len(self.upstreams):
            raise ValueError("weights must hold one number for each upstream")
        if self.weights and not any(self.weights):
            raise ValueError("at least one weight must be over 0")
        return self

    def rule(self) -> RouteRule:
        """Returns the entry as the router's value."""
        values = self.model_dump(exclude={"model", "fields"})
        return RouteRule(pattern=self.model, fields=FieldPolicies(**self.fields), **values)
