"""Notices that go by mail, to a real SMTP server: STARTTLS and TLS, a password, and what becomes of a refusal."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from gateway.notices.policy import Smtp
from tests.support.noticing import noticing, recipient
from tests.support.ports import free_port
from tests.support.servers import Server

PASSWORD = "password-of-the-mail-server"
# Over TLS from the first byte, its authentication does not know that there is TLS, and warns.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
TO = ("ops@example.com", "finance@example.com")


class Mailbox:
    """Keeps what arrives. `refusals` says what is answered to an address."""

    def __init__(self) -> None:
        self.received: list[tuple[Envelope, Session]] = []
        self.refusals: dict[str, str] = {}

    async def handle_RCPT(  # noqa: N802 - the library names it so
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refusals:
            return self.refusals[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 - the library names it so
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        self.received.append((envelope, session))
        return "250 OK"

    def message(self, number: int = 0) -> Message:
        content = self.received[number][0].content
        assert isinstance(content, bytes)
        return message_from_bytes(content, policy=default)


def logs_in(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
    assert isinstance(data, LoginPassword)
    return AuthResult(success=(data.login, data.password) == (b"gateway", PASSWORD.encode()), handled=False)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@contextlib.contextmanager
def mail_server(mailbox: Mailbox, authority: trustme.CA, tls: str) -> Iterator[int]:
    """Runs a mail server that wants a password, and yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    shared: dict[str, Any] = {"hostname": "127.0.0.1", "port": free_port()}
    if tls == "none":
        controller = Controller(mailbox, **shared)
    else:
        secured = {"ssl_context": context} if tls == "tls" else {"tls_context": context, "require_starttls": True}
        controller = Controller(
            mailbox, **shared, **secured, authenticator=logs_in, auth_required=True, auth_require_tls=tls == "starttls"
        )
    controller.start()
    try:
        yield shared["port"]
    finally:
        controller.stop()


def smtp(port: int, tls: Any, password: str | None = PASSWORD) -> Smtp:
    return Smtp("localhost", port, tls, "gateway" if password else None, password, "gateway@example.com")


@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_a_mail_arrives_over_tls_with_a_password(
    store: Server, authority: trustme.CA, ca_file: str, tls: str
) -> None:
    mailbox = Mailbox()
    with mail_server(mailbox, authority, tls) as port:
        async with noticing(store.url, recipient("ops", mail=TO), smtp=smtp(port, tls), ca_file=ca_file) as parts:
            team = await parts.new_team()
            await parts.rounds_until(lambda: parts.notices.results["ops", "sent"])
            [ended] = await parts.notices.outbox.ended(10)
    [(envelope, session)] = mailbox.received
    assert tuple(envelope.rcpt_tos) == TO
    assert session.ssl is not None or tls == "tls"
    message = mailbox.message()
    assert message["subject"] == f"Team {team.name} has 0 USD of credits left, less than 0.00000001 USD."
    assert (message["from"], message["to"]) == ("gateway@example.com", ", ".join(TO))
    assert message["message-id"] == f"<{ended.notice.id}@example.com>"


async def test_a_mail_server_that_nobody_vouches_for_gets_no_password(
    store: Server, authority: trustme.CA, ca_file: str
) -> None:
    mailbox = Mailbox()
    other = trustme.CA()
    with mail_server(mailbox, other, "starttls") as port:
        ops = recipient("ops", mail=TO)
        async with noticing(store.url, ops, smtp=smtp(port, "starttls"), ca_file=ca_file, max_attempts=1) as parts:
            await parts.new_team()
            await parts.rounds_until(lambda: parts.notices.results["ops", "given_up"])
            [ended] = await parts.notices.outbox.ended(10)
    assert "certificate" in ended.notice.error.lower()
    assert PASSWORD not in ended.notice.error
    assert mailbox.received == []


async def test_a_wrong_password_is_a_failed_attempt_that_does_not_show_it(
    store: Server, authority: trustme.CA, ca_file: str
) -> None:
    mailbox = Mailbox()
    with mail_server(mailbox, authority, "starttls") as port:
        wrong = smtp(port, "starttls", "wrong-password")
        ops = recipient("ops", mail=TO)
        async with noticing(store.url, ops, smtp=wrong, ca_file=ca_file, max_attempts=2) as parts:
            await parts.new_team()
            await parts.rounds_until(lambda: parts.notices.results["ops", "given_up"])
            [ended] = await parts.notices.outbox.ended(10)
    assert ended.notice.attempts == 2
    assert "535" in ended.notice.error
    assert "wrong-password" not in ended.notice.error


async def test_an_address_that_is_refused_costs_the_others_no_second_mail(store: Server, authority: trustme.CA) -> None:
    mailbox = Mailbox()
    mailbox.refusals = {TO[1]: "550 no such user"}
    with mail_server(mailbox, authority, "none") as port:
        async with noticing(store.url, recipient("ops", mail=TO), smtp=smtp(port, "none", None)) as parts:
            await parts.new_team()
            await parts.rounds_until(lambda: parts.notices.results["ops", "given_up"])
            await parts.rounds(3)
            [ended] = await parts.notices.outbox.ended(10)
    assert len(mailbox.received) == 1
    assert ended.notice.error == f"refused for {TO[1]}; sent to the others"


async def test_a_greylisting_server_gets_the_mail_a_second_time(store: Server, authority: trustme.CA) -> None:
    mailbox = Mailbox()
    mailbox.refusals = dict.fromkeys(TO, "451 come again")
    with mail_server(mailbox, authority, "none") as port:
        async with noticing(store.url, recipient("ops", mail=TO), smtp=smtp(port, "none", None)) as parts:
            await parts.new_team()
            await parts.rounds_until(lambda: parts.notices.results["ops", "failed"])
            mailbox.refusals = {}
            await parts.rounds_until(lambda: parts.notices.results["ops", "sent"])
    assert len(mailbox.received) == 1


async def test_a_header_cannot_be_added_by_the_name_of_a_team(store: Server, authority: trustme.CA) -> None:
    mailbox = Mailbox()
    with mail_server(mailbox, authority, "none") as port:
        async with noticing(store.url, recipient("ops", mail=TO), smtp=smtp(port, "none", None)) as parts:
            await parts.new_team(name="a\r\nBcc: everybody@example.com")
            await parts.rounds_until(lambda: parts.notices.results["ops", "sent"])
    assert mailbox.message()["bcc"] is None
    assert tuple(mailbox.received[0][0].rcpt_tos) == TO
