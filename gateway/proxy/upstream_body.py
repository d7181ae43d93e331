"""The body that an upstream gets: the caller's body, with the changes that protocol/body_changes.py lists."""

from __future__ import annotations

from functools import partial

import orjson

from gateway.concurrency.disk_body import NO_EDIT, SentBody
from gateway.concurrency.off_loop import LONG_BYTES
from gateway.protocol.body_changes import (
    ASKS_COST,
    COST_ASKED,
    ENCRYPTED_REASONING,
    USAGE_ASKED,
    Addition,
    output_bound_in,
    with_flag,
    with_members,
    with_model,
    with_output_bound,
)
from gateway.protocol.multipart import text_edit
from gateway.protocol.request_body import read_request_body
from gateway.proxy.admission import Admitted
from gateway.proxy.output_bound import bound_per_run
from gateway.types import Body
from gateway.upstream.upstream import Upstream


class UpstreamBody:
    """Makes the bodies of one request.

    `output_bound` is the bound per run, in tokens, that the gateway adds, or None. Mutable: `refused`, the additions
    that each upstream has refused.
    """

    __slots__ = ("_admitted", "_request", "output_bound", "refused")

    def __init__(self, admitted: Admitted) -> None:
        self._admitted = admitted
        self._request = admitted.request
        self.refused: dict[str, set[str]] = {}
        self.output_bound: int | None = None

    async def build_for(self, upstream: Upstream) -> tuple[Body | SentBody, tuple[Addition, ...]]:
        """Returns the body for an upstream, and the additions that a retry may leave out.

        Raises GatewayError if less than one token per run is held.
        """
        admitted = self._admitted
        route, request, turn = admitted.route, self._request, admitted.turn
        sends, held_tokens = admitted.admission_request.sends_output_bound, admitted.admission.hold.output_tokens
        if sends or (sends is None and held_tokens < admitted.admission_request.demand.output_tokens):
            self.output_bound = bound_per_run(request, held_tokens)
        body, model, field = request.body, None, ""
        is_sent = not request.model_in_prompt or route.rule.rename is not None
        has_body = body or request.on_disk is not None
        if has_body and (route.upstream_model != request.model or not request.names_model) and is_sent:
            model = route.upstream_model
        added: tuple[Addition, ...] = ()
        if self.output_bound is not None:
            *newer, oldest = admitted.target.operation.dialect.request.output_fields
            field = next((one for one in newer if not self._refuses(upstream, one)), oldest)
            if field is not oldest:  # the last one stays, because an unbounded answer could cost more than its hold
                added = (output_bound_in(field),)
        if request.usage_unasked and not self._refuses(upstream, USAGE_ASKED.name):
            added = (*added, USAGE_ASKED)
        if upstream.policy.ask_for_cost and request.cost_unasked and not self._refuses(upstream, COST_ASKED.name):
            added = (*added, COST_ASKED)
        if turn is not None and turn.without_encrypted_reasoning is not None:
            added = (*added, ENCRYPTED_REASONING)
        if len(body) > LONG_BYTES or request.on_disk is not None:
            work = partial(self._large, model, field, added)
            return await self._admitted.snapshot.off_loop.run(work), added
        if model is not None:
            body = with_model(body, model, request.form)
        return self._small(body, field, added) if field or added else body, added

    def _small(self, body: Body, field: str, added: tuple[Addition, ...]) -> Body:
        if field:
            body = with_output_bound(body, field, self.output_bound or 0)
        if USAGE_ASKED in added:
            body = with_flag(body, "stream_options", b"include_usage")
        return with_flag(body, "usage", b"include") if COST_ASKED in added else body

    def _large(self, model: str | None, field: str, added: tuple[Addition, ...]) -> Body | SentBody:
        """Makes the changes in a large body. May run in any thread. A body on disk is not copied."""
        request = self._request
        if request.on_disk is not None and request.form is not None:
            edit = NO_EDIT if model is None else text_edit(request.form, "model", model)
            return self._admitted.snapshot.forms.body_to_send(request.on_disk, edit)
        if request.places is None:  # a form, in which only the model can change
            return request.body if model is None else with_model(request.body, model, request.form)
        values: dict[str, bytes] = {}
        if model is not None:
            values["model"] = orjson.dumps(model)
        if field:
            values[field] = b"%d" % (self.output_bound or 0)
        if COST_ASKED in added:
            values["usage"] = ASKS_COST
        return with_members(request.body, request.places, values, asks_usage=USAGE_ASKED in added)

    def leave_out(self, upstream: Upstream, addition: Addition) -> None:
        """Leaves an addition that the upstream has refused out of its next body."""
        if addition is ENCRYPTED_REASONING and self._admitted.turn is not None:
            body = self._admitted.turn.leave_reasoning_out(f"{upstream.name} refuses it")
            self._request = read_request_body(body, self._admitted.target.operation.dialect.request)
            return
        self.refused.setdefault(upstream.name, set()).add(addition.name)

    def refused_by(self, upstream: Upstream) -> frozenset[str]:
        """Returns the names of the additions that the upstream has refused for this request."""
        return frozenset(self.refused.get(upstream.name, ()))

    def _refuses(self, upstream: Upstream, field: str) -> bool:
        known = field in self.refused.get(upstream.name, ())
        return known or upstream.refuses(self._admitted.route.upstream_model, field)
