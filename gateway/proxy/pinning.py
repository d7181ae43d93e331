"""Restricts a route's candidates: to the maker of what a request continues, or to the caller's preference. Pure."""

from __future__ import annotations

import time
from math import ceil

from gateway.errors import GatewayError
from gateway.ledger.known_responses import KnownResponse
from gateway.protocol.operations import Target
from gateway.protocol.provider_preferences import Preferences
from gateway.proxy.offers import restrict_to_offering
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.routing.preferences import preferred
from gateway.routing.router import Route
from gateway.state.turn import Turn


def pin_to_turn(snapshot: ConfigSnapshot, route: Route, turn: Turn) -> Route:
    """Returns the route to the key that made the encrypted reasoning of a turn, which no other organisation can read.

    If that key is not in use any more, the reasoning is left out. A turn without such reasoning goes to the key that
    made the response or conversation which it continues.
    """
    found = _pin_to_key(snapshot, route, turn.reasoning_maker)
    if found is not None:
        return found._replace(chosen_by="reasoning")
    if turn.reasoning_maker:
        turn.leave_reasoning_out(f"its key of {turn.reasoning_maker.partition(' ')[0]} is not in use any more")
    base = _pin_to_key(snapshot, route, turn.base_maker)
    return route if base is None else base._replace(chosen_by="response")


def _pin_to_key(snapshot: ConfigSnapshot, route: Route, maker: str) -> Route | None:
    """Returns the route to one key. `maker` is "UPSTREAM FINGERPRINT". None: that key is not in use."""
    name, _, fingerprint = maker.partition(" ")
    upstream = snapshot.upstreams.get(name) if name in route.candidates else None
    if upstream is None or all(key.fingerprint != fingerprint for key in upstream.keys.keys):
        return None
    return route._replace(candidates=(name,), key_fingerprint=fingerprint)


def apply_preferences(snapshot: ConfigSnapshot, route: Route, preferences: Preferences) -> Route:
    """Returns the route to the upstreams that the caller's `provider` object asks for."""
    rates = route.price.at(time.time_ns() // 1_000_000).plain
    prices = ceil(rates.per_million("input")), ceil(rates.per_million("output"))
    left = preferred(route.candidates, preferences, snapshot.upstreams, *prices)
    return route if left == route.candidates else route._replace(candidates=left, chosen_by="provider")


def pin_to_response(snapshot: ConfigSnapshot, route: Route, known_response: KnownResponse, target: Target) -> Route:
    """Returns the route to the upstream that made the response, because no other one knows it. Raises GatewayError."""
    if known_response.upstream not in snapshot.upstreams:
        raise GatewayError(
            "response_not_found", f"The provider of {known_response.response_id!r} is not used here any more."
        )
    if not target.operation.by_id and known_response.upstream not in route.rule.upstreams:
        raise GatewayError(
            "invalid_field",
            f"{known_response.response_id!r} was made by a provider that the model {route.model!r} is not routed to.",
            param="previous_response_id",
        )
    known = route._replace(candidates=(known_response.upstream,), chosen_by="response")
    return restrict_to_offering(snapshot, known, target.operation)
