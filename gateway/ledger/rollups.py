"""Usage by the hour, as settlement counts it: `gw:{T}:usage:<hour>`, "<key>|<model>|<figure>" -> number.

The figures are written by the script that posts the cost: what a page shows is what was charged. The hour is that of
admission. A correction that comes later (a response whose usage was learnt afterwards) counts in its own hour.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.errors import GatewayError
from gateway.ledger.keyspace import HOUR_MS, TeamKeys
from gateway.ledger.replies import gather
from gateway.ledger.store import Store

MAX_READS: Final = 100_000
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Used:
    """What one key used of one model in one hour. `cost`: nano-USD."""

    team_id: str
    key_id: str
    model: str
    hour_ms: int
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost: int


async def used(store: Store, team_ids: Sequence[str], from_ms: int, to_ms: int) -> AsyncIterator[Used]:
    """Everything in the hours that [from_ms, to_ms) touches. Raises `invalid_field` for more than MAX_READS hashes."""
    hours = range(from_ms // HOUR_MS, -(-to_ms // HOUR_MS))
    if len(hours) * len(team_ids) > MAX_READS:
        raise GatewayError(
            "invalid_field",
            f"{len(hours)} hours of {len(team_ids)} teams are too much at once: ask for a shorter time or one team.",
            param="from",
        )
    wanted = [(team_id, hour * HOUR_MS) for team_id in team_ids for hour in hours]
    for at in range(0, len(wanted), _AT_ONCE):
        part = wanted[at : at + _AT_ONCE]
        replies = await gather([store.run("HGETALL", TeamKeys(team).usage(hour_ms)) for team, hour_ms in part])
        for (team_id, hour_ms), flat in zip(part, replies, strict=True):
            for row in _rows(team_id, hour_ms, flat):
                yield row


def _rows(team_id: str, hour_ms: int, flat: list[bytes]) -> list[Used]:
    rows: dict[tuple[str, str], dict[str, int]] = {}
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        key_id, rest = name.decode().split("|", 1)
        model, figure = rest.rsplit("|", 1)  # a model's name may have a bar
        rows.setdefault((key_id, model), {})[figure] = int(value)
    return [
        Used(
            team_id=team_id,
            key_id=key_id,
            model=model,
            hour_ms=hour_ms,
            requests=figures.get("requests", 0),
            input_tokens=figures.get("in", 0),
            cached_input_tokens=figures.get("cached", 0),
            output_tokens=figures.get("out", 0),
            cost=figures.get("cost", 0),
        )
        for (key_id, model), figures in rows.items()
    ]
