"""The notices of one worker on a real store, without a gateway around them.

async with noticing(url, recipient("ops", url=...)) as parts:    parts.notices, .accounts, .store
    team = await parts.new_team(limits={"budget_tokens_day": 10})
    await parts.rounds_until(lambda: receiver.requests)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.accounts.accounts import Accounts
from gateway.accounts.entities import Changes, Team
from gateway.notices.notices import Notices
from gateway.notices.policy import NoticePolicy, Recipient, Smtp
from gateway.store.store import Store, StoreSettings
from tests.support.waiting import wait_until

NO_SMTP = Smtp("", 587, "starttls", None, None, "")
SECRET = "whsec_" + "c2VjcmV0LW9mLTI0LWJ5dGVzLW9yLW1vcmU="
KEY = b"secret-of-24-bytes-or-more"


def recipient(name: str, **changes: Any) -> Recipient:
    """A recipient that is told everything."""
    values = {"keys": (KEY,), "budget_percent": (50, 80, 100), "balance_below": (10,), "days_left": (7, 1)}
    return Recipient(name, **{**values, **changes})


def notice_policy(*recipients: Recipient, **changes: Any) -> NoticePolicy:
    values: dict[str, Any] = {
        "smtp": NO_SMTP,
        "ca_file": None,
        "every_s": 0.01,
        "timeout_s": 5.0,
        "max_attempts": 12,
        "retry_s": 0.05,
        "max_waiting": 1000,
        "max_ended": 1000,
    }
    return NoticePolicy(recipients={one.name: one for one in recipients}, **{**values, **changes})


@dataclass
class NoticeParts:
    """The notices of one worker, and what they stand on. `policy` may be replaced, as a reload does it."""

    store: Store
    accounts: Accounts
    policy: NoticePolicy
    notices: Notices

    async def new_team(self, *, credit: int = 0, limits: Mapping[str, int] | None = None, name: str = "") -> Team:
        name = name or f"noticed-{os.urandom(8).hex()}"
        team = await self.accounts.create_team(Changes(name=name, limits=limits or {}))
        if credit:
            await self.accounts.move_credits(team, "grant", credit)
        return team

    async def rounds_until(self, predicate: Callable[[], object], what: str = "") -> None:
        """Lets round follow round until something is true."""

        def woken() -> bool:
            self.notices.work.wake()
            return bool(predicate())

        await wait_until(woken, what=what)

    async def rounds(self, count: int) -> None:
        """Lets so many whole rounds pass."""
        before = self.notices.work.rounds["done"]
        await self.rounds_until(lambda: self.notices.work.rounds["done"] > before + count, "rounds")

    def change(self, **changes: Any) -> None:
        """Replaces parts of the policy."""
        self.policy = replace(self.policy, **changes)


@contextlib.asynccontextmanager
async def noticing(url: str, *recipients: Recipient, run: bool = True, **changes: Any) -> AsyncIterator[NoticeParts]:
    """Opens a store and runs the notices of one worker until the end of the block."""
    store = await Store.open(StoreSettings(url=url))
    accounts = Accounts(store, idempotency_ttl_s=86_400, journal_retention_s=86_400, burst=1.0)
    parts = NoticeParts(
        store,
        accounts,
        notice_policy(*recipients, **changes),
        Notices(store, accounts, lambda: parts.policy, lambda _: None),
    )
    task = asyncio.create_task(parts.notices.work.run()) if run else None
    try:
        yield parts
        assert parts.notices.work.rounds["failed"] == 0
    finally:
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await parts.notices.close()
        await store.close()
