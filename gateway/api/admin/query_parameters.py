"""Query parameters that several routes accept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Final

from fastapi import Query

from gateway.accounts.accounts import Accounts
from gateway.errors import GatewayError
from gateway.protocol.moments import FORMS, parse_moment

_BATCH_SIZE: Final = 500

Limit = Annotated[int, Query(ge=1, le=1000, description="How many")]
After = Annotated[str | None, Query(min_length=1, max_length=64, description="The last page's `next`")]
All = Annotated[bool, Query(alias="all", description="Also what was deleted or revoked")]
Since = Annotated[
    str | None,
    Query(
        alias="from",
        max_length=64,
        description="A day or a time in ISO 8601, UTC where no zone is given; yesterday, today, tomorrow",
    ),
]
Until = Annotated[str | None, Query(alias="to", max_length=64, description="The same, not included")]


def moment_ms(text: str | None, name: str, otherwise: int, zone: tzinfo = UTC) -> int:
    """Returns a date or time as ms since 1970; `zone`: where it names none. Raises GatewayError `invalid_field`."""
    if text is None:
        return otherwise
    try:
        # A "+" that was not percent-encoded has been decoded to a space.
        moment = parse_moment(text.replace(" ", "+") if "T" in text else text, datetime.now(UTC), zone)
        return max(0, int(moment.timestamp() * 1000))
    except (ValueError, OverflowError):
        raise GatewayError(
            "invalid_field", f"{name}: {text!r} is no time or day, such as {FORMS}.", param=name
        ) from None


async def every_team_id(accounts: Accounts) -> AsyncIterator[str]:
    """Yields the ids of all teams."""
    after: str | None = None
    while True:
        ids, after = await accounts.team_ids(_BATCH_SIZE, after)
        for team_id in ids:
            yield team_id
        if after is None:
            return
