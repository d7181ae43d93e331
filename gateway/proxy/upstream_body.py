"""The body that an upstream is sent: the caller's, with the changes that protocol/body_changes.py lists."""

from __future__ import annotations

from gateway.protocol.body_changes import (
    USAGE_ASKED,
    Addition,
    output_bound_in,
    with_model,
    with_output_bound,
    with_usage_asked,
)
from gateway.proxy.admission import Admitted
from gateway.proxy.output_bound import bound_of_a_run
from gateway.types import Body
from gateway.upstream.upstream import Upstream


class UpstreamBody:
    """Makes the bodies of one request. Raises GatewayError where the bound that must be sent is less than one token.

    `output_bound`: the bound of one run that is added, or None. Mutable: `refused`, which additions each upstream has
    refused.
    """

    __slots__ = ("_admitted", "output_bound", "refused")

    def __init__(self, admitted: Admitted) -> None:
        self._admitted = admitted
        self.refused: dict[str, set[str]] = {}
        sends, held_tokens = admitted.asked.sends_output_bound, admitted.admission.hold.output_tokens
        if sends is None:
            sends = held_tokens < admitted.asked.demand.output_tokens
        self.output_bound = bound_of_a_run(admitted.request, held_tokens) if sends else None

    def made_for(self, upstream: Upstream) -> tuple[Body, tuple[Addition, ...]]:
        """The body for an upstream, and what was added to it that may be left out."""
        route, request = self._admitted.route, self._admitted.request
        body = request.body
        if body and (route.upstream_model != request.model or not request.names_model):
            body = with_model(body, route.upstream_model, request.form)
        added: tuple[Addition, ...] = ()
        if self.output_bound is not None:
            *newer, oldest = self._admitted.target.operation.dialect.request.output_fields
            field = next((one for one in newer if not self._refuses(upstream, one)), oldest)
            body = with_output_bound(body, field, self.output_bound)
            if field is not oldest:  # with no bound at all the answer could cost more than its hold
                added = (output_bound_in(field),)
        if request.usage_unasked and not self._refuses(upstream, USAGE_ASKED.name):
            body = with_usage_asked(body)
            added = (*added, USAGE_ASKED)
        return body, added

    def leave_out(self, upstream: Upstream, addition: Addition) -> None:
        """The upstream refuses an addition by its name: the next body for it comes without."""
        self.refused.setdefault(upstream.name, set()).add(addition.name)

    def note_taken(self, upstream: Upstream) -> None:
        """The upstream has taken the body.

        Only now it is remembered what it refused: of a request that is refused without it, too, the words say nothing.
        """
        for field in self.refused.pop(upstream.name, ()):
            upstream.note_refused(self._admitted.route.upstream_model, field)

    def _refuses(self, upstream: Upstream, field: str) -> bool:
        known = field in self.refused.get(upstream.name, ())
        return known or upstream.refuses(self._admitted.route.upstream_model, field)
