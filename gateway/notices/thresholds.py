"""Which thresholds a team or a key has reached. Pure.

Each threshold has a mark. It gives one notice, and another one only when its mark has changed:

| threshold                 | further content of its mark                  | when it gives another notice         |
|---------------------------|----------------------------------------------|--------------------------------------|
| percent of a budget       | the limit, and when the period ends; for the | in the next period, at another limit |
|                           | last hours or days, each span of that length |                                      |
| a balance below an amount | all that was granted and has not expired     | after another grant or adjustment,   |
|                           |                                              | or after credits have expired        |
| days left until an expiry | the expiry                                   | after a change of the expiry         |
| days left of some credits | their expiry                                 | for credits of another expiry        |

Every mark also has the recipient, the team, the key and the threshold. If several thresholds of one thing are reached,
only the last of them gives a notice, and the marks of all of them are set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from gateway.accounts.entities import Key, Team, View
from gateway.accounts.limit_names import read_limit_name
from gateway.accounts.serialization import limits_json, time_json
from gateway.billing.money import NANO, format_usd
from gateway.notices.policy import Recipient
from gateway.protocol.wording import counted

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
NEARLY_PERCENT: Final = 90
"""From this percentage on, a budget that has refused a request counts as used up, because its rest fits no request."""
_ALL: Final = 100
_NOTHING_REFUSED: Final[frozenset[str]] = frozenset()
_UNIT: Final[Mapping[str, str]] = MappingProxyType({"usd": " USD", "tokens": " tokens"})


@dataclass(frozen=True, slots=True)
class Subject:
    """A team, or one of its keys, whose thresholds are checked.

    Attributes:
        now_ms: the store's clock.
        refused: names of its budgets that have refused a request within this hour.
    """

    team: Team
    view: View
    key: Key | None = None
    refused: frozenset[str] = _NOTHING_REFUSED

    @property
    def name(self) -> str:
        """The subject for people."""
        team = f"Team {_one_line(self.team.name)}"
        return team if self.key is None else f"Key {_one_line(self.key.name)} of team {_one_line(self.team.name)}"


@dataclass(frozen=True, slots=True)
class Reached:
    """A threshold that was reached. `marks`: its own, and those of the thresholds that it passed."""

    kind: str
    subject: Subject
    text: str
    data: Mapping[str, Any]
    marks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget of a subject, in nano-USD or tokens."""

    name: str
    limit: int
    used: int
    resets_at: str | None

    @property
    def percent(self) -> int:
        """The whole percents that are used."""
        return _ALL if self.used >= self.limit else self.used * 100 // self.limit

    @property
    def is_nearly_used(self) -> bool:
        """Whether a refusal means that the budget is used up."""
        return NEARLY_PERCENT <= self.percent < _ALL

    def amount(self, units: int) -> str:
        """An amount of its unit, without the unit."""
        return format_usd(units) if "_usd_" in self.name else str(units)


def budgets(subject: Subject) -> list[Budget]:
    """Returns the budgets of a team or a key."""
    shown_limits = limits_json(subject.view, "team" if subject.key is None else "key")
    found = []
    for name, shown in shown_limits.items():
        if shown.get("limit_usd", shown.get("limit")) is None:
            continue  # an override removes the limit for now
        if "limit_usd" in shown:
            limit, used = _nano(shown["limit_usd"]), _nano(shown["used_usd"])
        elif "used" in shown:
            limit, used = shown["limit"], shown["used"]
        else:
            continue
        found.append(Budget(name, limit, used, shown["resets_at"]))
    return found


def reached(recipient: Recipient, subject: Subject) -> Iterator[Reached]:
    """Yields the reached thresholds that a recipient wants to know, also those that gave a notice before."""
    for budget in budgets(subject) if recipient.budget_percent else ():
        yield from _of_budget(recipient, subject, budget)
    if subject.key is None and subject.team.metered:
        yield from _of_balance(recipient, subject)
        yield from _of_credits(recipient, subject)
    yield from _of_expiry(recipient, subject)


def _of_budget(recipient: Recipient, subject: Subject, budget: Budget) -> Iterator[Reached]:
    refuses = budget.is_nearly_used and budget.name in subject.refused
    percent = _ALL if refuses else budget.percent
    passed = sorted((one for one in set(recipient.budget_percent) if percent >= one), reverse=True)
    if not passed:
        return
    unit = _UNIT[budget.name.split("_")[1]]
    text = (
        f"{subject.name} has used {budget.percent} % of {budget.name}: "
        f"{budget.amount(budget.used)} of {budget.amount(budget.limit)}{unit}."
    )
    text += " Requests are refused because of it." if percent == _ALL else ""
    text += f" It begins anew at {budget.resets_at}." if budget.resets_at else ""
    data = {
        "budget": budget.name,
        "threshold_percent": passed[0],
        "used_percent": budget.percent,
        "used": budget.amount(budget.used),
        "limit": budget.amount(budget.limit),
        "resets_at": budget.resets_at,
    }
    parts = ("budget", budget.name, str(budget.limit), _period(budget, subject.view.now_ms))
    yield Reached("budget.reached", subject, text, data, _marks(recipient, subject, parts, passed))


def _period(budget: Budget, now_ms: int) -> str:
    """Returns what changes when the same may be noticed again. One of the last days resets with every new use."""
    name = read_limit_name(budget.name)
    if name is None or not name.rolling_hours:
        return budget.resets_at or ""
    return str(now_ms // (name.rolling_hours * HOUR_MS))


def _of_balance(recipient: Recipient, subject: Subject) -> Iterator[Reached]:
    balance = subject.view.balance
    unspent = balance.available + balance.held  # a hold that ends gives most of itself back
    passed = sorted(amount for amount in set(recipient.balance_below) if unspent < amount)
    if passed:
        below = format_usd(passed[0])
        text = f"{subject.name} has {format_usd(unspent)} USD of credits left, less than {below} USD."
        data = {"threshold_usd": below, "balance_usd": format_usd(unspent)}
        marks = _marks(recipient, subject, ("balance", str(balance.granted)), passed)
        yield Reached("balance.low", subject, text, data, marks)


def _of_credits(recipient: Recipient, subject: Subject) -> Iterator[Reached]:
    for lot in subject.view.balance.lots:
        left_ms = lot.expires_ms - subject.view.now_ms
        passed = sorted(days for days in set(recipient.days_left) if 0 < left_ms <= days * DAY_MS)
        if passed and lot.available:
            expires_at, days, amount = time_json(lot.expires_ms), -(-left_ms // DAY_MS), format_usd(lot.available)
            within = f"{days} {'day' if days == 1 else 'days'}"
            text = f"{subject.name} has {amount} USD of credits that expire within {within}, at {expires_at}."
            data = {"threshold_days": passed[0], "days_left": days, "expires_at": expires_at, "expiring_usd": amount}
            marks = _marks(recipient, subject, ("credits", str(lot.expires_ms)), passed)
            yield Reached("credits.expiring", subject, text, data, marks)


def _of_expiry(recipient: Recipient, subject: Subject) -> Iterator[Reached]:
    account = subject.team if subject.key is None else subject.key
    left_ms = account.expires_ms - subject.view.now_ms
    passed = sorted(days for days in set(recipient.days_left) if 0 < left_ms <= days * DAY_MS)
    if passed:
        expires_at = time_json(account.expires_ms)
        days = -(-left_ms // DAY_MS)
        text = f"{subject.name} expires within {counted(days, 'day')}, at {expires_at}."
        data = {"threshold_days": passed[0], "days_left": days, "expires_at": expires_at}
        marks = _marks(recipient, subject, ("expiry", str(account.expires_ms)), passed)
        yield Reached("key.expiring" if subject.key else "team.expiring", subject, text, data, marks)


def _marks(recipient: Recipient, subject: Subject, parts: Sequence[str], passed: Sequence[int]) -> tuple[str, ...]:
    key_id = subject.key.id if subject.key is not None else ""
    fixed = (recipient.name, subject.team.id, key_id, *parts)
    return tuple(_digest(*fixed, str(threshold)) for threshold in passed)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def _nano(usd: str) -> int:
    """Reads an amount that the API shows. What was used in total may be more than the largest amount of a movement."""
    return int(Decimal(usd) * NANO)


def _one_line(name: str) -> str:
    return " ".join(name.split()) or "without a name"
