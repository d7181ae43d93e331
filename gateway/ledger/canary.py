"""The start-up proof: a limit of one must refuse the second request, on this very store, by the very scripts.

A store that answers but does not enforce (a proxy that swallows scripts, a wrong version) must not take traffic.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from gateway.errors import GatewayError
from gateway.exchange import NO_USAGE, Outcome, Settlement
from gateway.identity import ALPHABET, ApiKey, new_id
from gateway.ledger.faults import StoreError, StoreUnavailable
from gateway.ledger.keyspace import TeamKeys
from gateway.ledger.ledger import Ask, Ledger
from gateway.ledger.refusals import Demand
from gateway.ledger.store import Store
from gateway.pricing import Price

_LIFE_S: Final = 60


async def prove_enforcement(store: Store, ledger: Ledger) -> str:
    """Admits one request of a team with a limit of one, and sees the second refused. Returns what is wrong, or ""."""
    team_id = "canary" + "".join(secrets.choice(ALPHABET) for _ in range(4))
    key_id = new_id()
    keys = TeamKeys(team_id)
    names = [keys.team, keys.key(key_id), keys.state, keys.holds, keys.held, keys.journal]
    try:
        await store.run("HSET", keys.team, "status", "active", "metered", "0")
        await store.run("HSET", keys.key(key_id), "status", "active", "rpm", "1", "s:canary", "0")
        try:
            return await _second_is_refused(ledger, ApiKey(team_id, key_id, "canary"))
        finally:
            await asyncio.gather(*(store.run("EXPIRE", name, str(_LIFE_S)) for name in names))
    except StoreUnavailable as error:
        return f"the store is unavailable: {error}"
    except StoreError as error:
        return f"the store refuses the gateway's commands: {error}"
    except GatewayError as error:
        return f"the store does not work: {error.message}"


async def _second_is_refused(ledger: Ledger, key: ApiKey) -> str:
    demand = Demand("canary", 0, 0, 0, Price(0, 0, 0))
    first = await ledger.admit(Ask(f"canary_{new_id()}", key, ("*",), demand, None))
    try:
        second = await ledger.admit(Ask(f"canary_{new_id()}", key, ("*",), demand, None))
    except GatewayError as error:
        return "" if error.code == "rate_limit_exceeded" else f"the second request was refused by {error.code}"
    else:
        await ledger.settle(Settlement(second.hold, "void", 0, NO_USAGE, "-", Outcome.REFUSED, "canary", ""))
        return "the store admitted a second request against a limit of one"
    finally:
        await ledger.settle(Settlement(first.hold, "void", 0, NO_USAGE, "-", Outcome.REFUSED, "canary", ""))
