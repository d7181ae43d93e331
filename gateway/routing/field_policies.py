"""Which fields that change a price a route permits. Pure.

    allowed   permitted; what the price row does not state is charged by the rules of docs/prices.md, counted and named
    priced    permitted if the price row states its cost
    refused   not permitted

| name            | is about                                                                            | default |
|-----------------|-------------------------------------------------------------------------------------|---------|
| `service_tier`  | tiers but the base ones; `flex` and `batch` cost no more than the base              | priced  |
| `speed`         | Anthropic's fast mode: `when.speed`                                                 | priced  |
| `inference_geo` | a region: `when.inference_geo`                                                      | priced  |
| `models`        | models that may answer instead (`models`, `fallbacks`), and those of advisors       | priced  |
| `tools`         | hosted tools: `per_call`, `tools`                                                   | allowed |
| `provider`      | a router's choice of providers; priced: only upstreams of this gateway are named    | allowed |
| `variants`      | suffixes such as `:online`, where the price has the model without it                | allowed |
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Policy = Literal["allowed", "priced", "refused"]
PolicedField = Literal["service_tier", "speed", "inference_geo", "models", "tools", "provider", "variants"]
ForeignIds = Literal["auto", "refuse", "pass"]
"""The policy for ids of objects that are stored at the provider. "auto" refuses them if there are several teams."""


class FieldPolicies(NamedTuple):
    """The policy of each field."""

    service_tier: Policy = "priced"
    speed: Policy = "priced"
    inference_geo: Policy = "priced"
    models: Policy = "priced"
    tools: Policy = "allowed"
    provider: Policy = "allowed"
    variants: Policy = "allowed"


DEFAULT_POLICIES: Final = FieldPolicies()
