"""The recipients of notices and the bounds of sending, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

EVERY_TEAM = "*"
Form = Literal["standard", "slack"]
SmtpTls = Literal["starttls", "tls", "none"]


@dataclass(frozen=True, slots=True)
class Recipient:
    """A webhook (`url`) or mail addresses, and the thresholds that it wants to know.

    Attributes:
        keys: the bytes that sign what goes to the webhook; several while one is replaced.
        teams: their ids or names; EVERY_TEAM stands for all.
        balance_below: in nano-USD.
    """

    name: str
    url: str = field(default="", repr=False)
    form: Form = "standard"
    keys: tuple[bytes, ...] = field(default=(), repr=False)
    mail: tuple[str, ...] = ()
    teams: frozenset[str] = frozenset({EVERY_TEAM})
    budget_percent: tuple[int, ...] = ()
    balance_below: tuple[int, ...] = ()
    days_left: tuple[int, ...] = ()

    def is_told_of(self, team_id: str, name: str) -> bool:
        """Whether the recipient gets notices of a team."""
        return not self.teams.isdisjoint((EVERY_TEAM, team_id, name))


@dataclass(frozen=True, slots=True)
class Smtp:
    """The mail server. An empty `host` means that there is none."""

    host: str
    port: int
    tls: SmtpTls
    username: str | None
    password: str | None = field(repr=False)
    sender: str


@dataclass(frozen=True, slots=True)
class NoticePolicy:
    """The policy of notices. `retry_s` is the first pause, which doubles up to MAX_PAUSE_S."""

    recipients: Mapping[str, Recipient]
    smtp: Smtp
    ca_file: str | None
    every_s: float
    timeout_s: float
    max_attempts: int
    retry_s: float
    max_waiting: int
    max_ended: int
