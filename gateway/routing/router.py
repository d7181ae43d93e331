"""Step 3: where a model goes. "provider/model" -> Route.

    alias            an operator's name for a model id; it is resolved first
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

from gateway.billing.price_row import Price
from gateway.billing.price_table import PriceTable
from gateway.errors import GatewayError
from gateway.routing.affinity import Affinity, ordered
from gateway.routing.model_patterns import specificity


@dataclass(frozen=True, slots=True)
class RouteRule:
    """One [[routes]] entry. `weights` has one number per upstream; if it is empty, the upstreams are tried in order."""

    pattern: str
    upstreams: tuple[str, ...]
    weights: tuple[int, ...] = ()
    rename: str | None = None
    strip_prefix: str | None = None
    repeat_started: bool = False
    cost_source: Literal["usage", "upstream"] = "usage"
    keepalive_s: float | None = None
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


class Route(NamedTuple):
    """The result of step 3. `model` is the id after aliases, which permissions, prices and the ledger use.

    `session`: what the request belongs to, "" for nothing: it goes where the others of it went. `chosen_by`: the rule
    that ordered the candidates, where it is not the configuration's order.
    """

    model: str
    upstream_model: str
    candidates: tuple[str, ...]
    rule: RouteRule
    price: Price
    patterns: tuple[str, ...]
    session: str = ""
    chosen_by: str = ""


_MOST_KNOWN: Final = 1024


@dataclass(frozen=True, slots=True)
class Router:
    """The routes, aliases and prices in force. A reload creates a new router.

    Mutable: `_known`, a bounded cache of the routes of requested models. Routes that are drawn are not cached.
    """

    rules: Mapping[str, RouteRule]
    aliases: Mapping[str, str]
    prices: PriceTable
    draw: random.Random = field(default_factory=random.SystemRandom)
    _known: dict[str, Route] = field(default_factory=dict, init=False, repr=False, compare=False)

    def resolve(self, model: str) -> Route:
        """Returns the route of a model as the caller named it. Raises GatewayError `model_not_found`."""
        if (known := self._known.get(model)) is not None:
            return known
        target = self.aliases.get(model, model)
        patterns = specificity(target)
        rule = next((self.rules[pattern] for pattern in patterns if pattern in self.rules), None)
        price = self.prices.find(patterns)
        if rule is None or price is None:
            missing = "route" if rule is None else "price"
            raise GatewayError(
                "model_not_found", f"The model {model!r} does not exist here: it has no {missing}.", param="model"
            )
        route = Route(target, _upstream_model(rule, target), self._order(rule), rule, price, patterns)
        if not rule.weights and len(self._known) < _MOST_KNOWN:
            self._known[model] = route
        return route

    def in_use(self) -> frozenset[str]:
        """The upstreams to which some route leads."""
        return frozenset(
            name
            for rule in self.rules.values()
            for name, weight in zip(rule.upstreams, rule.weights or (1,) * len(rule.upstreams), strict=True)
            if weight
        )

    def in_session(self, route: Route, session: str) -> Route:
        """The route of a request that belongs to a session: its weights draw by the session, and not anew each time."""
        rule = route.rule
        if not session:
            return route._replace(chosen_by="weights") if rule.weights else route
        if not rule.weights:
            return route._replace(session=session)
        places = zip(rule.upstreams, rule.weights, strict=True)
        return route._replace(candidates=ordered(session, places, str), session=session, chosen_by="affinity")

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
    if rule.strip_prefix is not None and model.startswith(rule.strip_prefix):
        return model[len(rule.strip_prefix) :] or model
    return model
