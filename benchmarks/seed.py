"""Teams and keys for the measurements. Every limit is set, and none is reached."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.accounts.accounts import Accounts, Changes
from gateway.store.store import Store, StoreSettings

_CREDITS_NANO_USD: Final = 10**14
_AT_ONCE: Final = 200
TEAM_LIMITS: Final[Mapping[str, int]] = MappingProxyType(
    {"rpm": 10**9, "tpm": 10**10, "concurrency": 10**6, "budget_usd_month": 10**14, "budget_tokens_day": 10**13}
)
KEY_LIMITS: Final[Mapping[str, int]] = MappingProxyType({"rpm": 10**9, "tpm": 10**10, "concurrency": 10**6})


async def _team(accounts: Accounts, name: str, keys: int) -> list[str]:
    team = await accounts.create_team(Changes(name=name, limits=TEAM_LIMITS))
    await accounts.move_credits(team, "grant", _CREDITS_NANO_USD)
    made = [await accounts.create_key(team, Changes(name=f"key-{n}", limits=KEY_LIMITS)) for n in range(keys)]
    return [text for _, text in made]


async def _fill(url: str, teams: int, keys: int) -> list[str]:
    store = await Store.open(StoreSettings(url, timeout_s=30))
    accounts = Accounts(store, idempotency_ttl_s=86_400, journal_retention_s=86_400, burst=1.0)
    try:
        made: list[str] = []
        for first in range(0, teams, _AT_ONCE):
            names = [f"bench-{n}" for n in range(first, min(teams, first + _AT_ONCE))]
            for texts in await asyncio.gather(*(_team(accounts, name, keys) for name in names)):
                made += texts
        return made
    finally:
        await store.close()


def fill(url: str, teams: int = 1, keys: int = 1) -> list[str]:
    """Creates `teams` teams with `keys` keys each. Returns the texts of the keys."""
    return asyncio.run(_fill(url, teams, keys))
