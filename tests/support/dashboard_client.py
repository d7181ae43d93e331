"""A browser without the browser: it keeps cookies, and sends forms with the token of their page."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import httpx

from tests.support.gateway import ADMIN_KEY, RunningGateway

# Every page has the form that ends the session; this one shows nothing that would have to be looked up.
_ANY_PAGE = "/a-page-that-does-not-exist"
_TOKEN = re.compile(r'name="csrf" value="([0-9a-f]+)"')


class DashboardClient:
    """Mutable: the client's cookies."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def get(self, path: str = "", **headers: str) -> httpx.Response:
        """Returns a page without following redirects."""
        return self.client.get(f"/dashboard{path}", headers=headers)

    def token(self, page: str = _ANY_PAGE) -> str:
        """Returns the CSRF token of a page."""
        found = _TOKEN.search(self.get(page).text)
        assert found is not None, f"no form at {page!r}"
        return found[1]

    def send(self, path: str, **fields: str) -> httpx.Response:
        """Sends a form."""
        return self.client.post(f"/dashboard{path}", data={"csrf": self.token(), **fields})

    def try_to_sign_in(self, key: str, **fields: str) -> httpx.Response:
        """Sends the sign-in form."""
        data = {"csrf": self.token("/login"), "key": key, **fields}
        return self.client.post("/dashboard/login", data=data)


@contextlib.contextmanager
def signed_out(gateway: RunningGateway) -> Iterator[DashboardClient]:
    """Yields a client that is not signed in."""
    with httpx.Client(base_url=gateway.url, timeout=20) as client:
        yield DashboardClient(client)


@contextlib.contextmanager
def signed_in(gateway: RunningGateway, key: str = ADMIN_KEY) -> Iterator[DashboardClient]:
    """Yields a client that is signed in."""
    with signed_out(gateway) as dashboard:
        answer = dashboard.try_to_sign_in(key)
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard"), answer.text
        yield dashboard
