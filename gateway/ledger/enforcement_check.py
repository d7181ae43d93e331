"""Checks at the start that this store enforces limits: with a limit of one, the second request must be refused.

A store that answers but does not enforce limits, such as a proxy that swallows scripts, must not serve traffic. The
check uses a team of its own. All of its keys have a TTL before the scripts use them, so that nothing is left behind,
wherever the check is interrupted.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from gateway.billing.hold import FREE
from gateway.billing.lifecycle import Outcome
from gateway.billing.settlement import NO_USAGE, Settlement
from gateway.errors import GatewayError
from gateway.identity.api_keys import ALPHABET, ApiKey, new_id
from gateway.ledger.admissions import Admission, AdmissionRequest
from gateway.ledger.ledger import Ledger
from gateway.ledger.refusals import Demand
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.keyspace import TeamKeys
from gateway.store.store import Store

_LIFE_S: Final = 60


async def check_enforcement(store: Store, ledger: Ledger) -> str:
    """Admits a request of a team with a limit of one, and expects the second to be refused.

    Returns a problem, or "".
    """
    team_id = "canary" + "".join(secrets.choice(ALPHABET) for _ in range(4))
    try:
        key = await _make_team(store, team_id)
        return await _second_is_refused(ledger, key)
    except StoreUnavailable as error:
        return f"the store is unavailable: {error}"
    except StoreError as error:
        return f"the store refuses the gateway's commands: {error}"
    except GatewayError as error:
        return f"the store does not work: {error.message}"
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # replies that the scripts do not give
        return f"the store does not run the gateway's scripts: {error!r}"


async def _make_team(store: Store, team_id: str) -> ApiKey:
    """Makes a team with a key of one request per minute. Other values in its hashes keep them from being deleted."""
    keys, key_id = TeamKeys(team_id), new_id()
    contents = {
        keys.team: ("HSET", "status", "active", "metered", "0"),
        keys.key(key_id): ("HSET", "status", "active", "rpm", "1", "s:canary", "0"),
        keys.state: ("HSET", "available", "0"),
        keys.holds: ("ZADD", "+inf", "neighbour"),
        keys.held: ("HSET", "neighbour", ""),
        keys.journal: ("XADD", "*", "type", "canary"),
        keys.words: ("HSET", ":", "0", "=0", ""),
    }
    calls = []
    for name, (command, *words) in contents.items():
        calls += [store.run(command, name, *words), store.run("EXPIRE", name, str(_LIFE_S))]
    await asyncio.gather(*calls)
    return ApiKey(team_id, key_id, "canary")


async def _second_is_refused(ledger: Ledger, key: ApiKey) -> str:
    first = await _admit(ledger, key)
    if first.unchecked:
        return "the store is unavailable"
    try:
        second = await _admit(ledger, key)
    except GatewayError as error:
        return "" if error.code == "rate_limit_exceeded" else f"the second request was refused by {error.code}"
    return "the store is unavailable" if second.unchecked else "the store admitted a second request to a limit of one"


async def _admit(ledger: Ledger, key: ApiKey) -> Admission:
    demand = Demand("canary", 0, 0, 0, FREE)
    admission = await ledger.admit(AdmissionRequest(f"canary_{new_id()}", key, ("*",), demand, None))
    await ledger.settle(Settlement(admission.hold, "void", 0, NO_USAGE, "-", Outcome.REFUSED, "canary", ""))
    return admission
