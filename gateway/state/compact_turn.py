"""A call of `POST /v1/responses/compact`. Its answer contains the model's summary, and is not stored.

The answer consists of all messages of the user and one sealed item. Clients send these items back as the beginning of a
new chain (OpenResponses specification of 2026-04-24, schema `CompactResource`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gateway.concurrency.off_loop import LONG_BYTES
from gateway.protocol.dialects.responses import NO_USAGE
from gateway.state.compaction import summary_of, user_messages
from gateway.state.items import Item, shown
from gateway.state.large_work import dump_whole, is_long, parse_object_whole
from gateway.state.turn import Turn, new_response_id


@dataclass(slots=True)
class CompactTurn(Turn):
    """One such call. `seal` makes the sealed item from the summary."""

    seal: Callable[[str], Item] = field(kw_only=True)

    async def whole(self, body: bytes) -> bytes:
        """Returns the compacted conversation. Raises GatewayError `upstream_invalid_response` without a summary."""
        response = await self._run(partial(parse_object_whole, body), is_long=len(body) > LONG_BYTES) or {}
        item = self.seal(summary_of(response))
        self.response_id = new_response_id()
        usage = response.get("usage")
        compacted: dict[str, Any] = {
            "id": self.response_id,
            "object": "response.compaction",
            "created_at": int(time.time()),
            "output": [*shown(user_messages(self.window)), item],
            "usage": usage if isinstance(usage, dict) else dict(NO_USAGE),
        }
        return await self._run(partial(dump_whole, compacted), is_long=is_long(compacted))
