"""Protections of notices: what switches each off, and the test that must fail then."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_ONCE: Final = "tests/notices/test_once.py"
_WEBHOOKS: Final = "tests/notices/test_webhooks.py"
_MAIL: Final = "tests/notices/test_mail.py"
_NOTICES: Final = "gateway/notices/notices.py"
_MESSAGE: Final = "gateway/notices/message.py"
_PUT: Final = "gateway/store/scripts/notice_put_v1.lua"

NOTICE_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "a threshold is noticed once",
        _PUT,
        "if known then return 0 end",
        "",
        f"{_ONCE}::test_a_notice_is_sent_once_while_its_threshold_is_reached",
    ),
    Protection(
        "a threshold passes the marks of those before it",
        _PUT,
        "for at = 6, #ARGV do",
        "for at = 6, 6 do",
        f"{_ONCE}::test_what_falls_back_below_a_threshold_is_not_noticed_at_the_one_before",
    ),
    Protection(
        "what waits is bounded",
        _PUT,
        "if not known and redis.call('HLEN', waiting) >= tonumber(ARGV[3]) then return -1 end",
        "",
        f"{_WEBHOOKS}::test_what_waits_is_bounded_and_what_found_no_room_is_found_again",
    ),
    Protection(
        "one worker of all sends",
        "gateway/store/scripts/notice_turn_v1.lua",
        "if sender and sender ~= ARGV[1] then return 0 end",
        "",
        f"{_ONCE}::test_a_worker_that_dies_leaves_its_turn_to_another",
    ),
    Protection(
        "a notice is sent before that is noted",
        _NOTICES,
        "                await self._attempt(policy, name, notice)\n",
        '                await self.outbox.end(notice.attempted(""), "sent", policy.max_ended)\n'
        "                await self._attempt(policy, name, notice)\n",
        f"{_ONCE}::test_a_sender_that_is_killed_between_sending_and_noting_it_sends_again_under_the_same_id",
    ),
    Protection(
        "an attempt has its time",
        _NOTICES,
        "async with asyncio.timeout(policy.timeout_s):",
        "async with asyncio.timeout(60):",
        f"{_WEBHOOKS}::test_an_answer_that_never_ends_ends_an_attempt",
    ),
    Protection(
        "a recipient that fails is not asked for each of its notices",
        _NOTICES,
        "await self.outbox.wait_longer(notice, wait_s, others)",
        "await self.outbox.wait_longer(notice, wait_s)",
        f"{_WEBHOOKS}::test_while_a_recipient_fails_its_other_notices_wait_with_the_first",
    ),
    Protection(
        "a name calls nobody in a chat",
        _MESSAGE,
        "notice.text.translate(_SLACK)",
        "notice.text",
        f"{_WEBHOOKS}::test_the_form_of_slack_is_a_text_that_calls_nobody",
    ),
    Protection(
        "the signature covers the body",
        _MESSAGE,
        'signed = b".".join((identifier, timestamp, body))',
        'signed = b".".join((identifier, timestamp, b""))',
        f"{_WEBHOOKS}::test_a_webhook_is_verified_by_the_library_of_standard_webhooks",
    ),
    Protection(
        "a name stays in one line of a mail",
        "gateway/notices/thresholds.py",
        'return " ".join(name.split()) or "without a name"',
        "return name",
        f"{_MAIL}::test_a_header_cannot_be_added_by_the_name_of_a_team",
    ),
    Protection(
        "a password goes over TLS alone",
        "gateway/config/notice_settings.py",
        'if self.smtp_password is not None and self.smtp_tls == "none":',
        "if False:",
        "tests/unit/test_notice_settings.py",
    ),
)
