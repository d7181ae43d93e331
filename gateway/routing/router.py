"""Step 3: where a model goes. "provider/model" -> Route.

    alias            an operator's name for a model; it is resolved first, in any spelling (model_names.py)
    route pattern    an exact id, "provider/*" or "*"; the most specific one wins
    candidates       the route's upstreams, in order or drawn by weight; pinned ones come first
    upstream model   the model that the upstream is told: unchanged, unless the route renames it or strips a prefix

A model without a route or without a price is refused, so that no model is free by accident.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from gateway.billing.most_expensive_rows import most_expensive_rows
from gateway.billing.price_row import Price
from gateway.billing.price_table import PriceTable
from gateway.billing.rates import Layer
from gateway.errors import GatewayError
from gateway.protocol.model_spelling import folded
from gateway.routing.affinity import Affinity, ordered
from gateway.routing.field_policies import DEFAULT_POLICIES, FieldPolicies, ForeignIds
from gateway.routing.model_names import ModelName, ModelNames


@dataclass(frozen=True, slots=True)
class RouteRule:
    """One [[routes]] entry. `weights` has one number per upstream. If it is empty, they are tried in their order."""

    pattern: str
    upstreams: tuple[str, ...]
    weights: tuple[int, ...] = ()
    rename: str | None = None
    strip_prefix: str | None = None
    repeat_started: bool = False
    cost_source: Literal["usage", "upstream"] = "usage"
    keepalive_s: float | None = None
    early_keepalive_s: float | None = None
    cut_at_cap: bool = False
    default_max_output_tokens: int | None = None
    send_max_output_tokens: Literal["auto", True, False] | None = None
    state: Literal["upstream", "gateway", "none"] = "upstream"
    upstream_store: Literal["false", "omit"] = "false"
    replay_ids: Literal["none", "reasoning"] = "none"
    reserve_input_tokens: int | None = None
    max_tool_calls: int | None = None
    affinity: Affinity = "session"
    charge_unanswered: Literal["input", "nothing"] | None = None
    charge_failed_input: bool | None = None
    on_overrun: Literal["allow", "pause"] | None = None
    fields: FieldPolicies = DEFAULT_POLICIES
    foreign_ids: ForeignIds = "auto"
    price_by: Literal["asked", "answered"] = "asked"
    websocket: bool = True


class Route(NamedTuple):
    """The result of step 3. `model` is the id after aliases, which prices and the ledger use.

    `patterns` are the case-folded patterns that match the model, for permissions. `variants` are suffixes such as
    "online", which the price row may not state. `instead` are models that may answer in its place, with their prices.
    `is_priced_by_answer` says that the model that answers is charged.

    `session` is the session of the request or "": all requests of a session go to the same place. `chosen_by` is the
    rule that ordered the candidates, if it was not the configuration's order. `key_fingerprint` is the only upstream
    key that may be used, or "" for any. `limited`: the patterns whose limits count the request, where they are others
    than `patterns`.
    """

    model: str
    upstream_model: str
    candidates: tuple[str, ...]
    rule: RouteRule
    price: Price
    patterns: tuple[str, ...]
    session: str = ""
    chosen_by: str = ""
    variants: tuple[str, ...] = ()
    instead: tuple[tuple[str, Price], ...] = ()
    is_priced_by_answer: bool = False
    key_fingerprint: str = ""
    limited: tuple[str, ...] = ()

    @property
    def is_priced(self) -> bool:
        """Whether its model has a price."""
        return self.price is not UNPRICED


UNPRICED: Final = Price(Layer({"input": 0, "output": 0}))
"""Stands in for the price of an unpriced model, for requests that cost nothing."""
_MAX_REMEMBERED_MODELS: Final = 1024


@dataclass(frozen=True, slots=True)
class Router:
    """The routes, aliases and prices in force. A reload creates a new router.

    `unnamed_model` is the model whose route is used for requests without a model. If it is "", they are refused.
    Mutable: `_known`, a bounded cache of routes by requested model, and `_most_expensive`, which is computed once.
    Routes that are drawn by weight are not cached.
    """

    rules: Mapping[str, RouteRule]
    aliases: Mapping[str, str]
    prices: PriceTable
    unnamed_model: str = ""
    draw: random.Random = field(default_factory=random.SystemRandom)
    names: ModelNames = field(init=False, repr=False, compare=False)
    _rules: Mapping[str, RouteRule] = field(init=False, repr=False, compare=False)
    _most_expensive: list[tuple[str, Price]] = field(default_factory=list, init=False, repr=False, compare=False)
    _known: dict[str, Route] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", ModelNames((*self.rules, *self.prices.prices), self.aliases))
        object.__setattr__(self, "_rules", {folded(pattern): rule for pattern, rule in self.rules.items()})

    def rule_of(self, name: ModelName) -> RouteRule | None:
        """Returns the most specific route of a model, or None."""
        return next((self._rules[pattern] for pattern in name.patterns if pattern in self._rules), None)

    def resolve(self, model: str, *, free: bool = False, pinned: bool = False) -> Route:
        """Returns the route of a model as the caller named it. Raises GatewayError `model_not_found`.

        `free` says that the request costs nothing, so that it needs no price. `pinned` says that its upstream is known,
        so that it needs no route either: responses can still be read after their model left the configuration.
        """
        if (known := self._known.get(model)) is not None:
            return known
        name = self.names.read(model)
        rule, price = self.rule_of(name), self.prices.find(name.patterns)
        is_configured = rule is not None and price is not None
        if rule is None and pinned:
            rule = RouteRule(name.model, ())
        if price is None and free:
            price = UNPRICED
        if rule is None or price is None:
            missing = "route" if rule is None else "price"
            raise GatewayError(
                "model_not_found", f"The model {model!r} does not exist here: it has no {missing}.", param="model"
            )
        instead = self._any_model() if rule.price_by == "answered" else ()
        variants = () if rule.rename is not None else name.variants
        upstream_model = _upstream_model(rule, name.model)
        route = Route(
            name.model,
            upstream_model,
            self._order(rule),
            rule,
            price,
            name.patterns,
            variants=variants,
            instead=instead,
            is_priced_by_answer=rule.price_by == "answered",
        )
        if is_configured and not rule.weights and len(self._known) < _MAX_REMEMBERED_MODELS:
            self._known[model] = route
        return route

    def in_use(self) -> frozenset[str]:
        """Returns the upstreams that some route uses."""
        return frozenset(
            name
            for rule in self.rules.values()
            for name, weight in zip(rule.upstreams, rule.weights or (1,) * len(rule.upstreams), strict=True)
            if weight
        )

    def in_session(self, route: Route, session: str) -> Route:
        """Returns the route for a request of a session: the session decides the draw, always alike."""
        rule = route.rule
        if not session:
            return route._replace(chosen_by="weights") if rule.weights else route
        if not rule.weights:
            return route._replace(session=session)
        places = zip(rule.upstreams, rule.weights, strict=True)
        return route._replace(candidates=ordered(session, places, str), session=session, chosen_by="affinity")

    def by_answer(self, route: Route) -> Route:
        """Returns the route of a request whose model only the provider knows: the model that answers is charged."""
        return route._replace(instead=self._any_model(), is_priced_by_answer=True)

    def _any_model(self) -> tuple[tuple[str, Price], ...]:
        """Returns the models that may answer for a router, reduced to those of which one is the most expensive."""
        if not self._most_expensive:
            self._most_expensive.extend(most_expensive_rows(self.prices))
        return tuple(self._most_expensive)

    def _order(self, rule: RouteRule) -> tuple[str, ...]:
        if not rule.weights:
            return rule.upstreams
        # Weighted order without replacement (Efraimidis and Spirakis, 2006): the largest u ** (1 / weight) comes first.
        keyed = [
            (self.draw.random() ** (1 / weight), name)
            for name, weight in zip(rule.upstreams, rule.weights, strict=True)
            if weight > 0
        ]
        return tuple(name for _, name in sorted(keyed, reverse=True))


def _upstream_model(rule: RouteRule, model: str) -> str:
    if rule.rename is not None:
        return rule.rename
    prefix = rule.strip_prefix
    if prefix is not None and folded(model[: len(prefix)]) == folded(prefix):
        return model[len(prefix) :] or model
    return model
