"""The answer to a warm-up, `generate: false`: a response without output that costs nothing. Pure.

Warm-ups are not in the specification. Codex and others send one before their first turn, and then continue its response
with an empty input. A warm-up is never sent to a provider, which would answer and charge for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gateway.protocol.dialects.responses import NO_USAGE
from gateway.state import replay
from gateway.state.snapshot import begun_response


def warm_up_response(response_id: str, model: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the response to a warm-up. `fields` are the members of its message."""
    now_s = int(time.time())
    return {
        **begun_response(fields, response_id, model, now_s),
        "status": "completed",
        "completed_at": now_s,
        "previous_response_id": fields.get("previous_response_id"),
        "usage": dict(NO_USAGE),
    }


def events(response: Mapping[str, Any]) -> bytes:
    """Returns the events of the response, from `response.created` to `response.completed`."""
    return b"".join(replay.events(response))
