"""Movements of a team's credits: grants and adjustments, also of credits that expire.

What is left of the credits that expire at one time is called a lot. The scripts spend the lot that expires first, and
credits that do not expire last (store/scripts/lots.lua). A lot ends at its expiry, by the store's clock, and nothing
has to run for that: from then on scripts and views leave it out. The next settlement of the team, or the next round
that looks for expired holds, journals what was left of it as `lapse`.
"""

from __future__ import annotations

import uuid
from typing import Any, Final, NamedTuple

from gateway.accounts.idempotency import mismatch
from gateway.billing.money import MAX_NANO_USD, format_usd
from gateway.errors import GatewayError
from gateway.protocol.timestamps import iso_time
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather
from gateway.store.script import Script
from gateway.store.store import Store

MAX_LOTS: Final = 32
"""At how many different times a team's credits may expire. Each costs some three microseconds of the store's time per
request of the team."""
CREDIT: Final = Script.load("credit_v2")
_CONFLICT: Final = -1
_TOO_MUCH: Final = -2
_EXPIRED: Final = -3
_TOO_MANY: Final = -4
_TOO_LITTLE: Final = -5


class Movement(NamedTuple):
    """A grant (`amount_nano_usd` > 0), or an adjustment (either sign).

    `expires_ms`: when the credits expire, for a grant; of which lot they are, for an adjustment; None: they do not.
    """

    kind: str
    amount_nano_usd: int
    note: str = ""
    idempotency_key: str | None = None
    expires_ms: int | None = None


async def post_movement(store: Store, team_id: str, movement: Movement, lives_ms: list[str], max_lots: int) -> bool:
    """Posts a movement, once per idempotency key. Returns False if there is no such team.

    `lives_ms`: how long the idempotency key and the journal's entry live. Raises GatewayError: `idempotency_mismatch`
    for an idempotency key of another movement; `invalid_field` if the balance would pass its bound, if the expiry has
    passed, if the team has no room for another lot, or if the lot has less than an adjustment takes.
    """
    keys, movement_id = TeamKeys(team_id), uuid.uuid4().hex
    expires = "" if movement.expires_ms is None else str(movement.expires_ms)
    call = store.call(
        CREDIT,
        [keys.team, keys.state, keys.journal, keys.grant(movement.idempotency_key or movement_id)],
        [
            movement.kind,
            str(movement.amount_nano_usd),
            movement_id,
            movement.note,
            str(MAX_NANO_USD),
            *lives_ms,
            expires,
            str(max_lots),
        ],
    )
    reply = (await gather([call]))[0]
    if reply[0] < 0:
        raise _refusal(reply, movement, max_lots)
    return bool(reply[0])


def _refusal(reply: list[Any], movement: Movement, max_lots: int) -> GatewayError:
    if reply[0] == _CONFLICT:
        return mismatch()
    at = iso_time(movement.expires_ms or 0)
    param, message = {
        _TOO_MUCH: ("amount_usd", f"A team can hold {format_usd(MAX_NANO_USD)} USD at most."),
        _EXPIRED: ("expires_at", f"{at} has passed: these credits could never be used."),
        _TOO_MANY: ("expires_at", f"A team's credits may expire at {max_lots} different times at most."),
        _TOO_LITTLE: ("amount_usd", f"{format_usd(int(reply[4]))} USD are left of the credits that expire at {at}."),
    }[reply[0]]
    return GatewayError("invalid_field", message, param=param)
