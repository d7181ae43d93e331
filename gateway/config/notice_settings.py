"""[notices] and [recipients.NAME]: who gets notices when a team comes near a limit, and how."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from gateway.billing.money import MoneyError, parse_usd
from gateway.config.sections import Section
from gateway.config.types import OptionalSecret, Seconds, Secret, matching, read_secret

SIGNING_PREFIX: Final = "whsec_"
_MIN_SIGNING_BYTES, _MAX_SIGNING_BYTES = 24, 64
"""The bounds that Standard Webhooks sets."""
MAX_RECIPIENTS: Final = 50


def _webhook(value: SecretStr) -> SecretStr:
    """Reads the URL where it is a reference: that of a chat is a secret."""
    text = value.get_secret_value()
    text = read_secret(text) if text.startswith(("env:", "file:")) else text
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        valid = valid and (parts.port or 1) > 0 and not parts.fragment
    except ValueError:
        valid = False
    if not valid or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError('a webhook is a URL such as "https://hooks.example/notices", or a reference to one')
    return SecretStr(text)


def signing_key(secret: str) -> bytes:
    """Returns the bytes of a secret of Standard Webhooks. Raises ValueError, which never contains the secret."""
    told = f'a signing secret is "{SIGNING_PREFIX}" and {_MIN_SIGNING_BYTES} to {_MAX_SIGNING_BYTES} bytes in base64'
    try:
        key = base64.b64decode(secret.removeprefix(SIGNING_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(told) from None
    if not secret.startswith(SIGNING_PREFIX) or not _MIN_SIGNING_BYTES <= len(key) <= _MAX_SIGNING_BYTES:
        raise ValueError(told)
    return key


def _signing_secret(value: SecretStr) -> SecretStr:
    signing_key(value.get_secret_value())
    return value


def _credits(text: str) -> str:
    try:
        amount = parse_usd(text)
    except MoneyError as error:
        raise ValueError(str(error)) from None
    if amount <= 0:
        raise ValueError("a balance is more than 0 USD")
    return text


Percent = Annotated[int, Field(ge=1, le=100)]
Days = Annotated[int, Field(ge=1, le=3650)]
Credits = Annotated[str, AfterValidator(_credits)]
Address = Annotated[str, matching(r"[!-?A-~]{1,64}@[A-Za-z0-9.-]{1,255}", 'an address is written as "ops@example.com"')]
SigningSecret = Annotated[Secret, AfterValidator(_signing_secret)]


class NoticesSettings(Section):
    """How notices are found, sent and repeated, and the mail server."""

    every_s: Seconds = 60.0
    timeout_s: float = Field(default=10.0, gt=0, le=60, allow_inf_nan=False)
    max_attempts: int = Field(default=12, ge=1, le=100)
    retry_s: Seconds = 5.0
    max_waiting: int = Field(default=1000, ge=1, le=100_000)
    max_ended: int = Field(default=1000, ge=1, le=100_000)
    ca_file: Path | None = None
    smtp_host: str | None = None
    smtp_port: int = Field(default=587, ge=1, le=65_535)
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    smtp_username: str | None = None
    smtp_password: OptionalSecret = None
    smtp_from: Address | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.smtp_host and not self.smtp_from:
            raise ValueError("a mail server needs smtp_from, the address that mail comes from")
        if self.smtp_password is not None and self.smtp_tls == "none":
            raise ValueError('smtp_password needs smtp_tls = "starttls" or "tls"')
        return self


class RecipientSettings(Section):
    """One recipient: a webhook or addresses of mail, for which teams, and at which thresholds."""

    webhook: Annotated[SecretStr, AfterValidator(_webhook)] | None = None
    form: Literal["standard", "slack"] = "standard"
    secrets: tuple[SigningSecret, ...] = ()
    mail: tuple[Address, ...] = ()
    teams: tuple[str, ...] = ("*",)
    budget_percent: tuple[Percent, ...] = (50, 80, 100)
    balance_below_usd: tuple[Credits, ...] = ()
    days_left: tuple[Days, ...] = (7, 1)

    @model_validator(mode="after")
    def _is_reachable(self) -> Self:
        if (self.webhook is None) == (not self.mail):
            raise ValueError("a recipient has either a webhook or mail")
        if self.webhook is not None and self.form == "standard" and not self.secrets:
            raise ValueError('a webhook in the standard form is signed: secrets = ["env:NAME"]')
        return self
