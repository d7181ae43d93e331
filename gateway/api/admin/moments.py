"""Times in the bodies of the admin API: ISO 8601 with a zone, days (UTC), or words such as tomorrow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, BeforeValidator

from gateway.protocol.moments import parse_moment

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _moment(value: object) -> object:
    """Reads a day or a word. A time must name its zone, because an expiry must not be guessed."""
    is_time = isinstance(value, str) and len(value.strip()) > len("2026-11-01")
    return parse_moment(value, datetime.now(UTC)) if isinstance(value, str) and not is_time else value


def _later(moment: datetime) -> datetime:
    if moment <= _EPOCH:
        raise ValueError("must lie after 1970")
    return moment


Moment = Annotated[AwareDatetime, BeforeValidator(_moment), AfterValidator(_later)]


def epoch_ms(moment: datetime) -> int:
    """Returns a time in ms since 1970."""
    return int(moment.timestamp() * 1000)
