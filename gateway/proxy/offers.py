"""Which upstreams of a route offer an operation. Pure."""

from __future__ import annotations

from gateway.errors import GatewayError
from gateway.protocol.operations import Operation
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.routing.router import Route


def restrict_to_offering(snapshot: ConfigSnapshot, route: Route, operation: Operation) -> Route:
    """Returns the route with only those candidates that offer an operation. Raises GatewayError if none does."""
    if not snapshot.offers_differ:
        return route
    upstreams = snapshot.upstreams
    left = tuple(name for name in route.candidates if upstreams[name].offers(operation.names))
    if not left:
        raise not_offered(operation, route.model)
    return route if len(left) == len(route.candidates) else route._replace(candidates=left)


def not_offered(operation: Operation, model: str) -> GatewayError:
    """Returns the refusal of an operation that no upstream of the model's route offers."""
    return GatewayError(
        "operation_not_offered",
        f"No provider of the model {model!r} offers {operation.method} {operation.route} ({operation.name}).",
        param="model",
    )
