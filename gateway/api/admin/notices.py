"""/admin/v1/notices: the recipients, the sent and failed notices, and a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from pydantic import Field

from gateway.accounts.serialization import time_json
from gateway.api.admin.guard import GuardedRoute
from gateway.api.admin.query_parameters import Limit
from gateway.api.admin.request_models import Body, example
from gateway.api.dependencies import services_of
from gateway.billing.money import format_usd
from gateway.errors import GatewayError
from gateway.notices.message import Notice
from gateway.notices.policy import Recipient

router = APIRouter(prefix="/notices", route_class=GuardedRoute)
_SHOWN: Final = 100


class NoticeTest(Body):
    """POST /notices/test."""

    model_config = example({"recipient": "ops"})

    recipient: str = Field(min_length=1, max_length=64)


@router.get("")
async def list_notices(request: Request, limit: Limit = _SHOWN) -> dict[str, Any]:
    """The recipients, the notices that wait, and those that were sent or given up, the newest first.

    `state` is waiting, sent or failed. `due_at` is when a waiting one is sent next; `error` is why the last attempt
    failed. Webhooks are shown without path, which may be a secret.
    """
    services = services_of(request)
    outbox = services.notices.outbox
    waiting, ended = await outbox.waiting(limit), await outbox.ended(limit)
    shown = [
        *(_notice_json(one.notice, "waiting", due_ms=one.due_ms) for one in waiting),
        *(_notice_json(one.notice, one.result, ended_ms=one.at_ms) for one in ended),
    ]
    recipients = list(map(_recipient_json, services.notices.policy.recipients.values()))
    return {"object": "list", "recipients": recipients, "data": shown[:limit], "next": None}


@router.post("/test")
async def test_recipient(request: Request, body: NoticeTest) -> dict[str, Any]:
    """Sends a test to a recipient at once, in one attempt. `error` says why it failed, or is null."""
    notices = services_of(request).notices
    recipient = notices.policy.recipients.get(body.recipient)
    if recipient is None:
        named = ", ".join(notices.policy.recipients) or "none"
        raise GatewayError(
            "recipient_not_found", f"There is no recipient {body.recipient!r}; configured: {named}.", param="recipient"
        )
    problem = await notices.test(recipient)
    return {"object": "notice_test", "recipient": recipient.name, "sent": not problem, "error": problem or None}


def _recipient_json(recipient: Recipient) -> dict[str, Any]:
    return {
        "name": recipient.name,
        "webhook": "".join(_without_path(recipient.url)) or None,
        "form": recipient.form if recipient.url else None,
        "mail": list(recipient.mail),
        "teams": sorted(recipient.teams),
        "budget_percent": list(recipient.budget_percent),
        "balance_below_usd": [format_usd(amount) for amount in recipient.balance_below],
        "days_left": list(recipient.days_left),
    }


def _without_path(url: str) -> Iterator[str]:
    if url:
        parts = urlsplit(url)
        yield f"{parts.scheme}://{parts.netloc}"
        yield "/…" if parts.path.strip("/") or parts.query else ""


def _notice_json(notice: Notice, state: str, *, due_ms: int = 0, ended_ms: int = 0) -> dict[str, Any]:
    team, key = notice.data.get("team") or {}, notice.data.get("key") or {}
    return {
        "object": "notice",
        "id": notice.id,
        "state": state,
        "recipient": notice.recipient,
        "type": notice.type,
        "team_id": team.get("id"),
        "key_id": key.get("id"),
        "text": notice.text,
        "at": time_json(notice.at_ms),
        "attempts": notice.attempts,
        "due_at": time_json(due_ms),
        "ended_at": time_json(ended_ms),
        "error": notice.error or None,
    }
