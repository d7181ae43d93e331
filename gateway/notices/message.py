"""A notice as it is stored, the formats in which it is sent, and its signature. Pure.

    standard    {"type", "timestamp", "data": {"recipient", "team", "key", "text", ...}}, as in Standard Webhooks
    slack       {"text"}
    mail        the text as the subject and the body

Standard Webhooks (standardwebhooks.com): `webhook-signature` is "v1," and the base64 of
HMAC-SHA256(key, "<webhook-id>.<webhook-timestamp>.<body>"). Each key gives one signature; spaces separate them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from email.message import EmailMessage
from email.utils import formatdate
from types import MappingProxyType
from typing import Any, Final

import orjson

from gateway import __version__
from gateway.protocol.timestamps import iso_time

MAX_PAUSE_S: Final = 3600.0
_MAX_DOUBLINGS: Final = 20
_MAX_ERROR_CHARACTERS: Final = 300
_SLACK: Final = MappingProxyType({ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"})
"""Slack reads text between < and > as a link or as a mention."""
_MAX_SUBJECT_CHARACTERS: Final = 200


class SendingFailed(Exception):
    """An attempt failed. `final`: no further attempt is made. `wait_s`: the pause that the recipient asked for."""

    def __init__(self, why: str, *, final: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.final = final
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice that waits to be sent, or that has ended.

    Attributes:
        id: the same in every attempt, so that its recipient can drop a repetition.
        at_ms: when the threshold was found to be reached.
        error: why the last attempt failed.
    """

    id: str
    recipient: str
    type: str
    at_ms: int
    text: str
    data: Mapping[str, Any]
    attempts: int = 0
    error: str = ""

    def to_bytes(self) -> bytes:
        """Returns the notice as the store keeps it."""
        return orjson.dumps(asdict(self))

    def after_attempt(self, error: str) -> Notice:
        """Returns the notice after one more attempt, with the reason why that failed, or ""."""
        return replace(self, attempts=self.attempts + 1, error=one_line(error))


def read_notice(stored: bytes) -> Notice:
    """Reads a stored notice. Fields that a newer version has added are dropped."""
    fields = orjson.loads(stored)
    return Notice(**{name: fields[name] for name in Notice.__slots__ if name in fields})


def pause_s(first_s: float, attempts: int, asked_s: float = 0.0) -> float:
    """Returns the pause after a number of failed attempts. It doubles, and is at least what the recipient asked for."""
    return min(MAX_PAUSE_S, max(first_s * 2.0 ** min(attempts - 1, _MAX_DOUBLINGS), asked_s))


def one_line(text: str) -> str:
    """Returns foreign text for people: in one line, cut to `_MAX_ERROR_CHARACTERS`."""
    words = "".join(letter if letter.isprintable() else " " for letter in text).split()
    return " ".join(words)[:_MAX_ERROR_CHARACTERS]


def webhook_body(notice: Notice, form: str) -> bytes:
    """Returns the body of a webhook."""
    if form == "slack":
        return orjson.dumps({"text": notice.text.translate(_SLACK)})
    data = {"recipient": notice.recipient, **notice.data, "text": notice.text}
    return orjson.dumps({"type": notice.type, "timestamp": iso_time(notice.at_ms), "data": data})


def webhook_headers(notice: Notice, body: bytes, keys: Sequence[bytes], now_s: int) -> list[tuple[bytes, bytes]]:
    """Returns the headers of a webhook, signed with each key."""
    identifier, timestamp = notice.id.encode(), b"%d" % now_s
    headers = [
        (b"content-type", b"application/json"),
        (b"user-agent", f"openresponses-gateway/{__version__}".encode()),
        (b"webhook-id", identifier),
        (b"webhook-timestamp", timestamp),
    ]
    if keys:
        signed = b".".join((identifier, timestamp, body))
        digests = (hmac.digest(key, signed, hashlib.sha256) for key in keys)
        signature = b" ".join(b"v1," + base64.b64encode(digest) for digest in digests)
        headers.append((b"webhook-signature", signature))
    return headers


def mail_message(notice: Notice, sender: str, recipients: Sequence[str]) -> EmailMessage:
    """Returns the notice as a mail. Its Message-ID is the same in every attempt."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = notice.text[:_MAX_SUBJECT_CHARACTERS]
    message["Date"] = formatdate(notice.at_ms / 1000)
    message["Message-ID"] = f"<{notice.id}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday reply
    facts = [f"{name}: {value}" for name, value in notice.data.items() if isinstance(value, str | int)]
    message.set_content("\n".join([notice.text, "", *facts, ""]))
    return message
