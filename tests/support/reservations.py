"""What is held for a whole body, from its bytes to the reservation, without a gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.billing.price_table import PriceTable
from gateway.config.price_settings import PriceSettings
from gateway.protocol.form_body import read_form_request
from gateway.protocol.operations import OPERATIONS, Operation
from gateway.protocol.request_body import RequestBody, read_request_body
from gateway.proxy.reservation import Reservation, reserve
from gateway.proxy.snapshot import RequestLimits
from gateway.routing.router import Route, Router, RouteRule
from tests.support.price_rows import NOW

LIMITS: Final = RequestLimits(
    max_body_bytes=2**25,
    body_timeout_s=30.0,
    default_max_output_tokens=4096,
    failover_s=30.0,
    max_duration_ms=3_600_000,
    reserve_input_tokens=100_000,
    max_tool_calls=10,
    reserve_tool_tokens=16_384,
)
RESERVE: Final = LIMITS.reserve_input_tokens
OF_NAME: Final[Mapping[str, Operation]] = MappingProxyType({one.name: one for one in OPERATIONS})
ANY_ROUTE: Final = RouteRule("*", ("one",))


class Held(NamedTuple):
    """A request, the route that it took, and what is held for it."""

    request: RequestBody
    route: Route
    router: Router
    reservation: Reservation

    @property
    def nano_usd(self) -> int:
        """What is held, in nano-USD."""
        return self.reservation.worst.amount_nano_usd


def held_for(
    operation: str,
    body: Mapping[str, Any] | bytes,
    row: Mapping[str, Any],
    *,
    rule: RouteRule = ANY_ROUTE,
    limits: RequestLimits = LIMITS,
    form_type: str = "",
    now_ms: int = NOW,
) -> Held:
    """Reads a body as a gateway does, and reserves for it. `row`: the price of every model, as the file states it."""
    called, router = OF_NAME[operation], Router({"*": rule}, {}, PriceTable({"*": PriceSettings(**row).price()}))
    form = called.dialect.request
    if form_type:
        request = read_form_request(bytes(body) if isinstance(body, bytes) else b"", form_type.encode(), form)
    else:
        data = body if isinstance(body, bytes) else json.dumps({"model": "a/b", **body}).encode()
        request = read_request_body(data, form, needs_input=called.needs_input)
    route = router.resolve(request.model)
    return Held(request, route, router, reserve(request, called, route, router, limits, None, now_ms))
