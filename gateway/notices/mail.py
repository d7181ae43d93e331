"""Sends a notice by SMTP, over STARTTLS or TLS."""

from __future__ import annotations

import aiosmtplib

from gateway.notices.message import Notice, SendingFailed, mail_message
from gateway.notices.policy import Recipient, Smtp
from gateway.upstream.origin import tls_context
from gateway.upstream.transport import TransportConfig


class MailSender:
    """Sends notices to the mail addresses of one recipient. Raises ValueError for a file that cannot be used."""

    def __init__(self, recipient: Recipient, smtp: Smtp, timeout_s: float, ca_file: str | None) -> None:
        self._recipient = recipient
        self._smtp = smtp
        self._timeout_s = timeout_s
        trust = TransportConfig(base_url=f"https://{smtp.host}", ca_file=ca_file)
        self._tls = tls_context(trust, None) if smtp.tls != "none" else None

    async def send(self, notice: Notice) -> None:
        """Sends a notice to all addresses in one mail. Raises SendingFailed. The caller bounds the time."""
        smtp = self._smtp
        message = mail_message(notice, smtp.sender, self._recipient.mail)
        try:
            refused, _ = await aiosmtplib.send(
                message,
                hostname=smtp.host,
                port=smtp.port,
                username=smtp.username,
                password=smtp.password,
                use_tls=smtp.tls == "tls",
                start_tls=smtp.tls == "starttls",
                tls_context=self._tls,
                timeout=self._timeout_s,
            )
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise SendingFailed(f"{type(error).__name__}: {error}") from None
        if refused:
            # The other addresses have received the mail, and would receive it again.
            raise SendingFailed(f"refused for {', '.join(refused)}; sent to the others", final=True)

    async def close(self) -> None:
        """Does nothing: each mail has a connection of its own."""
