"""Finds and sends notices. One worker does this, which has the turn by a lease; all others do nothing.

    a round, once a second     takes or renews the turn; without recipients it does nothing
      look, every `every_s`    reads teams and keys page by page, and stores a notice for each threshold newly reached
      send                     sends due notices: to one recipient in order, to several recipients in parallel

The turn lasts longer than an attempt, so that two workers send the same notice only if one of them was paused. A failed
attempt is repeated after a pause that doubles; the recipient's other notices wait with it. Mutable: the senders,
when the next look is due, `waiting`, and `results` by recipient.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import structlog

from gateway.accounts.accounts import Accounts, Key, Team, View
from gateway.concurrency.periodic import Periodic
from gateway.errors import GatewayError
from gateway.notices.mail import MailSender
from gateway.notices.message import Notice, SendingFailed, pause_s
from gateway.notices.outbox import Outbox, Put
from gateway.notices.policy import NoticePolicy, Recipient
from gateway.notices.thresholds import Reached, Subject, budgets, reached
from gateway.notices.webhook import WebhookSender
from gateway.reporting.outcome_rollups import read_outcomes, refusals
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather
from gateway.store.store import Store

EVERY_S: Final = 1.0
BATCH: Final = 100
"""How many due notices one round sends."""
_PAGE: Final = 100
_DEAD_AFTER_S: Final = 900.0
"""A look at many thousand keys takes minutes if the store is busy."""
_ENABLED: Final = "active"
TEST: Final = "test"


class Sender(Protocol):
    """Sends notices to one recipient."""

    async def send(self, notice: Notice) -> None:
        """Sends a notice. Raises SendingFailed."""

    async def close(self) -> None:
        """Closes open connections."""


class Notices:
    """The notices of one worker. `policy` returns the one in force; a reload replaces it."""

    def __init__(
        self,
        store: Store,
        accounts: Accounts,
        policy: Callable[[], NoticePolicy],
        proxy_of: Callable[[str], str | None],
    ) -> None:
        self.outbox: Final = Outbox(store)
        self.results: Counter[tuple[str, str]] = Counter()
        self.waiting = 0
        self.work: Final = Periodic(
            "send-notices", EVERY_S, self._round, outages=(StoreUnavailable, GatewayError), dead_after_s=_DEAD_AFTER_S
        )
        self._store = store
        self._accounts = accounts
        self._policy = policy
        self._proxy_of = proxy_of
        self._worker_id = os.urandom(8).hex()
        self._look_at_s = 0.0
        self._senders: dict[str, Sender] = {}
        self._built: NoticePolicy | None = None
        self._log = structlog.get_logger("gateway.notices")

    @property
    def policy(self) -> NoticePolicy:
        """The policy in force."""
        return self._policy()

    async def test(self, recipient: Recipient) -> str:
        """Sends a test to a recipient, in one attempt. Returns why it failed, or ""."""
        now_ms = time.time_ns() // 1_000_000
        text = f"This is a test: notices of the gateway reach {recipient.name!r}."
        notice = Notice(_new_id(), recipient.name, TEST, now_ms, text, {"team": None, "key": None})
        try:
            await self._attempt(self._policy(), recipient.name, notice)
        except SendingFailed as failed:
            return str(failed)
        return ""

    async def close(self) -> None:
        """At shutdown: closes open connections. Unsent notices wait for another worker."""
        for sender in self._senders.values():
            await sender.close()
        self._senders = {}

    async def _round(self) -> None:
        policy = self._policy()
        self.waiting = 0
        if not policy.recipients or not await self._has_turn(policy):
            self._look_at_s = 0.0  # with the next turn it looks at once
            return
        now_s = time.monotonic()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + policy.every_s
            await self._look(policy)
        await self._send_due(policy)
        self.waiting = await self.outbox.count()

    async def _has_turn(self, policy: NoticePolicy) -> bool:
        life_ms = int(policy.timeout_s * 3000) + 2000
        return await self.outbox.has_turn(self._worker_id, life_ms)

    # looking

    async def _look(self, policy: NoticePolicy) -> None:
        after: str | None = None
        while True:
            page = await self._accounts.teams(_PAGE, after)
            told = [
                (team, recipients)
                for team in page.data
                if team.status == _ENABLED
                and (recipients := [one for one in policy.recipients.values() if one.is_told_of(team.id, team.name)])
            ]
            views = await self._accounts.views([(team.id, None) for team, _ in told])
            for (team, recipients), view in zip(told, views, strict=True):
                try:
                    await self._look_at_team(policy, team, view, recipients)
                except StoreError as error:  # its data is damaged; the other teams are looked at
                    self._log.error("team_not_looked_at", team=team.id, error=str(error))
            after = page.next
            if after is None or not await self._has_turn(policy):
                return

    async def _look_at_team(
        self, policy: NoticePolicy, team: Team, view: View, recipients: Sequence[Recipient]
    ) -> None:
        if view.fault or (team.expires_ms and view.now_ms >= team.expires_ms):
            return
        subjects = [Subject(team, view)]
        if any(one.budget_percent or one.days_left for one in recipients):
            subjects += await self._keys(team, view, expiries=any(one.days_left for one in recipients))
        if any(budget.is_nearly_used for subject in subjects for budget in budgets(subject)):
            subjects = await self._with_refusals(team, view, subjects)
        for subject in subjects:
            for recipient in recipients:
                for found in reached(recipient, subject):
                    await self._put(policy, recipient, found)

    async def _keys(self, team: Team, view: View, *, expiries: bool) -> list[Subject]:
        """Returns the team's keys that can reach a threshold."""
        subjects: list[Subject] = []
        after: str | None = None
        while True:
            page = await self._accounts.keys(team, _PAGE, after)
            watched = [key for key in page.data if _is_watched(key, view.now_ms, expiries=expiries)]
            views = await self._accounts.views([(team.id, key.id) for key in watched])
            pairs = zip(watched, views, strict=True)
            subjects += [Subject(team, key_view, key) for key, key_view in pairs if not key_view.fault]
            after = page.next
            if after is None:
                return subjects

    async def _with_refusals(self, team: Team, view: View, subjects: Sequence[Subject]) -> list[Subject]:
        """Adds to each subject the budgets that refused a request in this hour."""
        name = TeamKeys(team.id).outcomes("hour", view.now_ms)
        [flat] = await gather([self._store.run("HGETALL", name)])
        refused: dict[str, set[str]] = {"team": set(), "key": set()}
        for row in read_outcomes(team.id, view.now_ms, flat):
            for one in refusals(row.counts):
                refused.setdefault(one.scope, set()).add(one.limit)
        return [
            Subject(one.team, one.view, one.key, frozenset(refused["team" if one.key is None else "key"]))
            for one in subjects
        ]

    async def _put(self, policy: NoticePolicy, recipient: Recipient, found: Reached) -> None:
        subject, key = found.subject, found.subject.key
        data = {
            "team": {"id": subject.team.id, "name": subject.team.name},
            "key": None if key is None else {"id": key.id, "name": key.name},
            **found.data,
        }
        notice = Notice(_new_id(), recipient.name, found.kind, subject.view.now_ms, found.text, data)
        put = await self.outbox.put(notice, found.marks, policy.max_waiting)
        if put is Put.FULL:
            self.results[recipient.name, "no_room"] += 1
        elif put is Put.DONE:
            self._log.info("notice", recipient=recipient.name, type=found.kind, team=subject.team.id, text=found.text)

    # sending

    async def _send_due(self, policy: NoticePolicy) -> None:
        by_recipient: dict[str, list[Notice]] = {}
        for notice in await self.outbox.due(BATCH):
            by_recipient.setdefault(notice.recipient, []).append(notice)
        sent = [self._send_to(policy, name, notices) for name, notices in by_recipient.items()]
        for problem in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(problem, BaseException):
                raise problem

    async def _send_to(self, policy: NoticePolicy, name: str, notices: Sequence[Notice]) -> None:
        for place, notice in enumerate(notices):
            if not await self._has_turn(policy):
                return
            try:
                await self._attempt(policy, name, notice)
            except SendingFailed as failed:
                await self._note_failure(policy, notice, failed, notices[place + 1 :])
                return
            await self.outbox.end(notice.after_attempt(""), "sent", policy.max_ended)
            self.results[name, "sent"] += 1

    async def _note_failure(
        self, policy: NoticePolicy, notice: Notice, failed: SendingFailed, others: Sequence[Notice]
    ) -> None:
        notice = notice.after_attempt(str(failed))
        wait_s = pause_s(policy.retry_s, notice.attempts, failed.wait_s)
        ends = failed.final or notice.attempts >= policy.max_attempts
        self._log.warning(
            "notice_not_sent",
            recipient=notice.recipient,
            notice=notice.id,
            attempts=notice.attempts,
            again_in_s=None if ends else wait_s,
            error=notice.error,
        )
        if ends:
            await self.outbox.end(notice, "failed", policy.max_ended)
        else:
            await self.outbox.wait_longer(notice, wait_s, others)
        self.results[notice.recipient, "given_up" if ends else "failed"] += 1

    async def _attempt(self, policy: NoticePolicy, name: str, notice: Notice) -> None:
        """Sends a notice once, within the time of an attempt. Raises SendingFailed."""
        try:
            sender = await self._sender(policy, name)
            async with asyncio.timeout(policy.timeout_s):
                await sender.send(notice)
        except TimeoutError:
            raise SendingFailed(f"not done within {policy.timeout_s:g} s") from None

    async def _sender(self, policy: NoticePolicy, name: str) -> Sender:
        if policy is not self._built:
            old, self._senders, self._built = self._senders, {}, policy
            for one in old.values():
                await one.close()
        recipient = policy.recipients.get(name)
        if recipient is None:
            raise SendingFailed("the configuration has no such recipient")
        if name not in self._senders:
            try:
                self._senders[name] = await asyncio.to_thread(self._build, policy, recipient)
            except ValueError as error:  # a file was removed after the configuration was read
                raise SendingFailed(f"it cannot be used: {error}") from None
        return self._senders[name]

    def _build(self, policy: NoticePolicy, recipient: Recipient) -> Sender:
        # in a thread, because reading the authorities of TLS takes long
        if recipient.mail:
            return MailSender(recipient, policy.smtp, policy.timeout_s, policy.ca_file)
        return WebhookSender(recipient, policy.timeout_s, policy.ca_file, self._proxy_of(recipient.url))


def _is_watched(key: Key, now_ms: int, *, expiries: bool) -> bool:
    if key.status != _ENABLED or (key.expires_ms and now_ms >= key.expires_ms):
        return False
    return (expiries and bool(key.expires_ms)) or any(_budgets(key))


def _budgets(key: Key) -> Iterator[str]:
    return (name for name in {**key.limits, **key.overrides} if name.startswith("budget_"))


def _new_id() -> str:
    return f"msg_{secrets.token_hex(16)}"
