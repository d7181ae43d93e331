"""Admin keys of each scope, and clients that use them."""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import httpx

from tests.support.gateway import ADMIN_KEY, RunningGateway


@contextlib.contextmanager
def admin_client(gateway: RunningGateway, key: str = ADMIN_KEY) -> Iterator[httpx.Client]:
    """A client of the admin API, by default with the root key."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"{gateway.url}/admin/v1", headers=headers, timeout=20) as client:
        yield client


def new_team(root: httpx.Client, **fields: Any) -> dict[str, Any]:
    """A team with credits."""
    body = {"name": f"team {uuid.uuid4().hex[:12]}", "credits_usd": "10", **fields}
    return done(root.post("/teams", json=body))


def new_admin(root: httpx.Client, scope: str, team: str | None = None, **fields: Any) -> str:
    """The text of a new admin key."""
    body = {"name": f"a {scope}", "scope": scope, **({"team": team} if team else {}), **fields}
    key: str = done(root.post("/admin-keys", json=body))["key"]
    return key


def done(answer: httpx.Response) -> dict[str, Any]:
    """Returns the body of an answer that must be successful."""
    assert answer.is_success, f"{answer.status_code} {answer.text}"
    body: dict[str, Any] = answer.json()
    return body


def code_of(answer: httpx.Response) -> str:
    """Returns the code of an answer that must be an error in the gateway's format."""
    assert answer.is_error, answer.text
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    code: str = error["code"]
    return code
